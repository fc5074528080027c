/* The watermarks of one store and the frame count of one segment, as C11 atomics.
 *
 * A writer stores with release, a reader loads with acquire: who sees a mark sees every byte that
 * was stored before it.  docs/rooms.md says who writes which.
 */
#ifndef SPOOLQ_MARKS_H
#define SPOOLQ_MARKS_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic int64_t spoolq_mark;

typedef struct {
    spoolq_mark published; /* newest frame that a reader may take; by the producer */
    spoolq_mark acked;     /* newest frame that is settled; by the I/O thread */
    spoolq_mark synced;    /* newest frame that survives a power cut; by who syncs, under its lock */
} spoolq_marks;

static inline int64_t spoolq_mark_load(spoolq_mark *mark) { return atomic_load_explicit(mark, memory_order_acquire); }

static inline void spoolq_mark_store(spoolq_mark *mark, int64_t value) {
    atomic_store_explicit(mark, value, memory_order_release);
}

/* What was stored before stays before what is stored after, for readers of another process, too. */
static inline void spoolq_stores_in_order(void) { atomic_thread_fence(memory_order_release); }

#endif
