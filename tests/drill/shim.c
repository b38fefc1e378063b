// A shared library that is loaded before libc (LD_PRELOAD). It counts the operations that change files below one folder,
// of Python and of Rust alike. At the n-th it kills the process, or lets the operation fail with an error of the disk.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long countdown = -1;  // -1: nothing is counted
static int error_number;     // 0: kill
static int sticky;           // the error stays, as that of a full disk does
static long counted;

// From now on, the n-th operation (from 1) below `path` fails with `error`; 0 kills the process. n = 0 counts alone.
void drill_arm(const char *path, long n, int error, int stays) {
    snprintf(folder, sizeof folder, "%s", path);
    countdown = n;
    error_number = error;
    sticky = stays;
    counted = 0;
}

long drill_counted(void) { return counted; }

static int below(const char *path) { return countdown >= 0 && strncmp(path, folder, strlen(folder)) == 0; }

static int below_fd(int fd) {
    if (countdown < 0) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return below(path);
}

// Whether the operation fails; errno is set then.
static int strikes(void) {
    long number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    if (countdown == 0 || number < countdown || (number > countdown && !sticky)) return 0;
    if (error_number == 0) kill(getpid(), SIGKILL);
    errno = error_number;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opens(const char *path, int flags) {
    return (flags & (O_WRONLY | O_RDWR | O_CREAT)) && below(path) && strikes();
}

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        va_list list;                                                \
        va_start(list, flags);                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list);                                                \
        if (opens(path, flags)) return -1;                           \
        return REAL(name)(path, flags, mode);                        \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                 \
    int name(int at, const char *path, int flags, ...) {             \
        va_list list;                                                \
        va_start(list, flags);                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list);                                                \
        if (opens(path, flags)) return -1;                           \
        return REAL(name)(at, path, flags, mode);                    \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *bytes, size_t n) {
    if (countdown >= 0 && below_fd(fd) && strikes()) return -1;
    return REAL(write)(fd, bytes, n);
}

ssize_t writev(int fd, const struct iovec *pieces, int n) {
    if (countdown >= 0 && below_fd(fd) && strikes()) return -1;
    return REAL(writev)(fd, pieces, n);
}

int fsync(int fd) {
    if (countdown >= 0 && below_fd(fd) && strikes()) return -1;
    return REAL(fsync)(fd);
}

int rename(const char *from, const char *to) {
    if (below(to) && strikes()) return -1;
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    if (below(path) && strikes()) return -1;
    return REAL(unlink)(path);
}

int unlinkat(int at, const char *path, int flags) {
    if (countdown >= 0 && below_fd(at) && strikes()) return -1;
    return REAL(unlinkat)(at, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    if (below(path) && strikes()) return -1;
    return REAL(mkdir)(path, mode);
}
