def live_native_bytes() -> int:
    """Bytes of native memory held by all row buffers of this process."""
