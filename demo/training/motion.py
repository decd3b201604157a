"""What `motion_bucket_id` means here: the mean length of the clip's optical flow."""

BUCKETS_PER_PIXEL = 175.0  # bucket 140 is 0.8 pixels a frame
LARGEST_BUCKET = 255.0


def bucket_of(flow: float) -> float:
    """The `motion_bucket_id` of a mean flow in pixels a frame."""
    return min(flow * BUCKETS_PER_PIXEL, LARGEST_BUCKET)


def flow_of(bucket: float) -> float:
    """The mean flow in pixels a frame that a `motion_bucket_id` asks for."""
    return bucket / BUCKETS_PER_PIXEL
