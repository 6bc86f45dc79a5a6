"""Says in sentences what came of a stage, and what a person does next."""
