"""Jobs, the schedule of due variants, the sensor of new declarations, the run coordinator, the instance."""
