/* The n-th allocation of many bytes fails, and so many after it: to be preloaded. glibc only. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static size_t least = (size_t)-1;
static long first, last;
static atomic_long count;

void failing_memory_arm(size_t bytes, long n, long times) {
    first = n, last = n + times - 1, count = 0;
    least = bytes;
}

long failing_memory_count(void) { return count; }

static int fails(size_t size) {
    if (size < least) return 0;
    long n = atomic_fetch_add(&count, 1) + 1;
    if (n < first || n > last) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails(size) ? NULL : __libc_malloc(size); }

void *calloc(size_t number, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(number, size, &bytes)) bytes = (size_t)-1;
    return fails(bytes) ? NULL : __libc_calloc(number, size);
}

void *realloc(void *old, size_t size) { return fails(size) ? NULL : __libc_realloc(old, size); }

void *memalign(size_t boundary, size_t size) { return fails(size) ? NULL : __libc_memalign(boundary, size); }

void *aligned_alloc(size_t boundary, size_t size) { return memalign(boundary, size); }

int posix_memalign(void **found, size_t boundary, size_t size) {
    void *made = memalign(boundary, size);
    if (!made) return ENOMEM;
    *found = made;
    return 0;
}

void *mmap(void *place, size_t size, int protection, int flags, int file, off_t from) {
    if ((flags & MAP_ANONYMOUS) && fails(size)) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, place, size, protection, flags, file, from);
}
