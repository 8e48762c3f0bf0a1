/*
 * Stands between the node and the operating system's sync calls (LD_PRELOAD).
 *
 * Only files below $SHIM_DATA are looked at. Every write of a marker (MARK- and digits) and every
 * sync is noted in $SHIM_DIR/log, one line each, times from CLOCK_MONOTONIC in nanoseconds:
 *
 *   W time inode marker      a write with that marker has been done
 *   B time inode number      a sync begins
 *   E time inode number ret  it returns that to the node
 *
 * Files in $SHIM_DIR steer it:
 *   delay      its content, in ms, is how long each sync takes longer
 *   hold       while it is there, syncs of files with a marker in them do not return
 *   fail       the next sync of a file with a marker fails with EIO, once, without syncing
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define INODES 4096

static const char *control_dir, *data_dir;
static int log_fd = -1;
static atomic_long syncs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ino_t marked[INODES];
static int marked_count;

__attribute__((constructor)) static void begin(void) {
    control_dir = getenv("SHIM_DIR");
    data_dir = getenv("SHIM_DATA");
    if (!control_dir || !data_dir) return;
    char path[4096];
    snprintf(path, sizeof path, "%s/log", control_dir);
    log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void note(const char *format, ...) {
    char line[256];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (log_fd >= 0 && length > 0) syscall(SYS_write, log_fd, line, (size_t)length);
}

static int control(const char *name, char *path, size_t size) {
    snprintf(path, size, "%s/%s", control_dir, name);
    return access(path, F_OK) == 0;
}

/* The inode when fd is a file below the data directory, else 0. */
static ino_t ours(int fd) {
    if (log_fd < 0) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, data_dir, strlen(data_dir)) != 0) return 0;
    struct stat s;
    return fstat(fd, &s) == 0 ? s.st_ino : 0;
}

static int is_marked(ino_t inode) {
    int found = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < marked_count; i++) found |= marked[i] == inode;
    pthread_mutex_unlock(&lock);
    return found;
}

static void mark(ino_t inode) {
    if (is_marked(inode)) return;
    pthread_mutex_lock(&lock);
    if (marked_count < INODES) marked[marked_count++] = inode;
    pthread_mutex_unlock(&lock);
}

static void written(ino_t inode, const void *from, size_t size) {
    const char *at = from, *end = at + size;
    while (at < end && (at = memmem(at, (size_t)(end - at), "MARK-", 5))) {
        char marker[32] = "MARK-";
        size_t length = 5;
        while (at + length < end && length < sizeof marker - 1 &&
               at[length] >= '0' && at[length] <= '9') {
            marker[length] = at[length];
            length++;
        }
        marker[length] = 0;
        mark(inode);
        note("W %lld %lu %s\n", now(), (unsigned long)inode, marker);
        at += length;
    }
}

static int sync_by(int fd, const char *name) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    ino_t inode = ours(fd);
    if (!inode) return real(fd);
    long number = atomic_fetch_add(&syncs, 1);
    int counted = is_marked(inode);
    char path[4096];
    note("B %lld %lu %ld\n", now(), (unsigned long)inode, number);
    while (counted && control("hold", path, sizeof path)) usleep(500);
    if (counted && control("fail", path, sizeof path) && unlink(path) == 0) {
        note("E %lld %lu %ld %d\n", now(), (unsigned long)inode, number, -1);
        errno = EIO;
        return -1;
    }
    if (control("delay", path, sizeof path)) {
        FILE *file = fopen(path, "re");
        int ms = 0;
        if (file) {
            if (fscanf(file, "%d", &ms) != 1) ms = 0;
            fclose(file);
        }
        if (ms > 0) usleep((useconds_t)ms * 1000);
    }
    int result = real(fd);
    int error = errno;
    note("E %lld %lu %ld %d\n", now(), (unsigned long)inode, number, result);
    errno = error;
    return result;
}

int fdatasync(int fd) { return sync_by(fd, "fdatasync"); }
int fsync(int fd) { return sync_by(fd, "fsync"); }

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    ssize_t done = real(fd, from, size, at);
    int error = errno;
    ino_t inode = done > 0 ? ours(fd) : 0;
    if (inode) written(inode, from, (size_t)done);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *from, size_t size) {
    ssize_t (*real)(int, const void *, size_t) =
        (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    ssize_t done = real(fd, from, size);
    int error = errno;
    ino_t inode = done > 0 ? ours(fd) : 0;
    if (inode) written(inode, from, (size_t)done);
    errno = error;
    return done;
}

static void written_vector(int fd, const struct iovec *from, int count, ssize_t done) {
    ino_t inode = done > 0 ? ours(fd) : 0;
    for (int i = 0; inode && i < count && done > 0; i++) {
        size_t size = from[i].iov_len < (size_t)done ? from[i].iov_len : (size_t)done;
        written(inode, from[i].iov_base, size);
        done -= (ssize_t)size;
    }
}

ssize_t writev(int fd, const struct iovec *from, int count) {
    ssize_t (*real)(int, const struct iovec *, int) =
        (ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev");
    ssize_t done = real(fd, from, count);
    int error = errno;
    written_vector(fd, from, count, done);
    errno = error;
    return done;
}

ssize_t pwritev64(int fd, const struct iovec *from, int count, off64_t at) {
    ssize_t (*real)(int, const struct iovec *, int, off64_t) =
        (ssize_t (*)(int, const struct iovec *, int, off64_t))dlsym(RTLD_NEXT, "pwritev64");
    ssize_t done = real(fd, from, count, at);
    int error = errno;
    written_vector(fd, from, count, done);
    errno = error;
    return done;
}
