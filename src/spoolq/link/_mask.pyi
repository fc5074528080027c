from spoolq.link.mask_plain import BINARY as BINARY  # same names and signatures
from spoolq.link.mask_plain import MaskKeys as MaskKeys
from spoolq.link.mask_plain import frame as frame
from spoolq.link.mask_plain import pack_run as pack_run
