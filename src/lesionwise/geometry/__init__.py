"""Where voxels lie: grids and the maps between them, affines, boxes, distances in mm, the head, volumes and cases."""
