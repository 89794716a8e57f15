"""What lies on disk: records of cases and results, folder layouts, checks, splits and the workspace."""
