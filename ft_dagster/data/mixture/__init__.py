"""Own rows and general text become the mixture that is trained on."""
