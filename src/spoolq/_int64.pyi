from spoolq.int64_plain import DateMillis as DateMillis
from spoolq.int64_plain import TimestampMicros as TimestampMicros
from spoolq.int64_plain import TimestampNanos as TimestampNanos
