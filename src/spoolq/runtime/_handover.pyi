from spoolq.runtime.handover_plain import Handover as Handover
