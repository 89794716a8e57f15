"""What lies in space: grids, files, intensity maps, edges and slices."""
