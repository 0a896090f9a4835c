"""The detector. Read `separation.py` for the idea and `detector.py` for the whole, image to detections."""
