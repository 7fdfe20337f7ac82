/* Records what a process changes below a folder, in the order of its calls, SQLite's own calls included.

   cc -shared -fPIC -o recorder.so recorder.c -ldl
   RECORD_FOLDER=/a/folder RECORD_LOG=/a/log LD_PRELOAD=recorder.so python …

   A record is a struct `head`, a path and the written bytes; `power.Recording` reads them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct head {
    uint64_t file, at;
    uint32_t what, path_bytes, content_bytes, unused;
};

static int log_fd = -1;
static const char *folder;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("RECORD_LOG");
    folder = getenv("RECORD_FOLDER");
    if (path && folder) log_fd = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void record(char what, uint64_t file, uint64_t at, const char *path, const void *content, size_t bytes) {
    struct head head = {file, at, (uint32_t)what, (uint32_t)strlen(path), (uint32_t)bytes, 0};
    __typeof__(&write) put = REAL(write);
    pthread_mutex_lock(&lock);
    if (put(log_fd, &head, sizeof head) < 0 || put(log_fd, path, head.path_bytes) < 0 ||
        (bytes && put(log_fd, content, bytes) < 0))
        abort();
    pthread_mutex_unlock(&lock);
}

static int is_below(const char *path) {
    if (log_fd < 0 || strncmp(path, folder, strlen(folder))) return 0;
    return path[strlen(folder)] == 0 || path[strlen(folder)] == '/';
}

/* The path of an open file below the folder, or 0. */
static int path_of(int fd, char *path) {
    char link[64];
    if (log_fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static uint64_t number_of(int fd) {
    struct stat status;
    return fstat(fd, &status) ? 0 : status.st_ino;
}

static const char *joined(int at, const char *path, char *whole) {
    char before[PATH_MAX];
    if (path[0] == '/') return path;
    if (at == AT_FDCWD ? !getcwd(before, sizeof before) : !path_of(at, before)) return "";
    snprintf(whole, PATH_MAX, "%.2000s/%.2000s", before, path);
    return whole;
}

/* --- names */

static int opened(int fd, int flags) {
    char path[PATH_MAX];
    if (fd >= 0 && flags & (O_CREAT | O_TRUNC) && path_of(fd, path)) {
        if (flags & O_CREAT) record('c', number_of(fd), 0, path, 0, 0);
        if (flags & O_TRUNC) record('t', number_of(fd), 0, path, 0, 0);
    }
    return fd;
}

#define OPEN(name)                                          \
    int name(const char *path, int flags, ...) {            \
        va_list rest;                                       \
        va_start(rest, flags);                              \
        mode_t mode = va_arg(rest, mode_t);                 \
        va_end(rest);                                       \
        return opened(REAL(name)(path, flags, mode), flags); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                            \
    int name(int at, const char *path, int flags, ...) {        \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t mode = va_arg(rest, mode_t);                     \
        va_end(rest);                                           \
        return opened(REAL(name)(at, path, flags, mode), flags); \
    }
OPENAT(openat)
OPENAT(openat64)

int mkdir(const char *path, mode_t mode) {
    char whole[PATH_MAX];
    int found = REAL(mkdir)(path, mode);
    const char *name = joined(AT_FDCWD, path, whole);
    if (!found && is_below(name)) record('d', 0, 0, name, 0, 0);
    return found;
}

static int removed(int found, int at, const char *path) {
    char whole[PATH_MAX];
    const char *name = joined(at, path, whole);
    if (!found && is_below(name)) record('u', 0, 0, name, 0, 0);
    return found;
}

int unlink(const char *path) { return removed(REAL(unlink)(path), AT_FDCWD, path); }
int rmdir(const char *path) { return removed(REAL(rmdir)(path), AT_FDCWD, path); }
int unlinkat(int at, const char *path, int flags) { return removed(REAL(unlinkat)(at, path, flags), at, path); }

int rename(const char *from, const char *to) {
    char one[PATH_MAX], other[PATH_MAX];
    int found = REAL(rename)(from, to);
    const char *old = joined(AT_FDCWD, from, one), *new = joined(AT_FDCWD, to, other);
    if (!found && is_below(new)) record('r', 0, 0, old, new, strlen(new));
    return found;
}

/* --- contents */

static void written(int fd, off_t at, const void *content, ssize_t bytes) {
    char path[PATH_MAX];
    if (bytes > 0 && fd != log_fd && path_of(fd, path)) record('w', number_of(fd), at, path, content, bytes);
}

ssize_t write(int fd, const void *content, size_t bytes) {
    ssize_t found = REAL(write)(fd, content, bytes);
    if (log_fd >= 0 && found > 0) written(fd, lseek(fd, 0, SEEK_CUR) - found, content, found);
    return found;
}

#define PWRITE(name)                                                      \
    ssize_t name(int fd, const void *content, size_t bytes, off_t at) {   \
        ssize_t found = REAL(name)(fd, content, bytes, at);               \
        written(fd, at, content, found);                                  \
        return found;                                                     \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

static int cut(int found, int fd, off_t size) {
    char path[PATH_MAX];
    if (!found && path_of(fd, path)) record('t', number_of(fd), size, path, 0, 0);
    return found;
}

int ftruncate(int fd, off_t size) { return cut(REAL(ftruncate)(fd, size), fd, size); }
int ftruncate64(int fd, off_t size) { return cut(REAL(ftruncate64)(fd, size), fd, size); }

static int flushed(int found, int fd) {
    char path[PATH_MAX];
    if (!found && path_of(fd, path)) record('s', number_of(fd), 0, path, 0, 0);
    return found;
}

int fsync(int fd) { return flushed(REAL(fsync)(fd), fd); }
int fdatasync(int fd) { return flushed(REAL(fdatasync)(fd), fd); }
