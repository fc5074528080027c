from spoolq.qwp.encode_plain import frame_bytes as frame_bytes
from spoolq.qwp.encode_plain import write as write
