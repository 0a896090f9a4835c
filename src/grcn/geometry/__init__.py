"""Pure functions on boxes: tensors in, tensors out.

Boxes are float xyxy, half-open, in pixels. Shape letters: B images, A anchors of an image, P proposals of an image,
G objects of an image (ground truth), K samples of an image.
"""
