/* Kills its process before, or half-way through, the KILL_AT-th operation on files whose names contain KILL_FILES:
   writes, syncs, truncations, renames and removals, or only those named by KILL_ONLY (`rename`, for example). To be
   preloaded; KILL_HALF=1 lets half of a write happen.

   SQLite calls all of these through the C library, so a commit is cut wherever a kill -9 could cut it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_wanted(const char *name)
{
    const char *part = getenv("KILL_FILES");
    return part != NULL && name != NULL && strstr(name, part) != NULL;
}

static int is_wanted_file(int file)
{
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0)
        return 0;
    name[length] = 0;
    return is_wanted(name);
}

/* Whether this is the operation to die in. */
static int is_last(int wanted, const char *operation)
{
    static int left = -1;
    const char *only = getenv("KILL_ONLY");
    if (only != NULL && strcmp(only, operation) != 0)
        return 0;
    if (left == -1)
        left = getenv("KILL_AT") != NULL ? atoi(getenv("KILL_AT")) : 0;
    return wanted && left > 0 && __atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST) == 0;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITER(name)                                                             \
    ssize_t name(int file, const void *data, size_t size, off64_t offset)        \
    {                                                                            \
        if (is_last(is_wanted_file(file), #name)) {                              \
            if (getenv("KILL_HALF") != NULL)                                     \
                REAL(name)(file, data, size / 2, offset);                        \
            die();                                                               \
        }                                                                        \
        return REAL(name)(file, data, size, offset);                             \
    }

#define ON_FILE(name, parameters, arguments)                                     \
    int name parameters                                                          \
    {                                                                            \
        if (is_last(is_wanted_file(file), #name))                                \
            die();                                                               \
        return REAL(name) arguments;                                             \
    }

#define ON_NAME(name, parameters, arguments)                                     \
    int name parameters                                                          \
    {                                                                            \
        if (is_last(is_wanted(path), #name))                                     \
            die();                                                               \
        return REAL(name) arguments;                                             \
    }

WRITER(pwrite)
WRITER(pwrite64)
ON_FILE(fsync, (int file), (file))
ON_FILE(fdatasync, (int file), (file))
ON_FILE(ftruncate, (int file, off_t size), (file, size))
ON_FILE(ftruncate64, (int file, off64_t size), (file, size))
ON_NAME(unlink, (const char *path), (path))
ON_NAME(rename, (const char *path, const char *to), (path, to))

ssize_t write(int file, const void *data, size_t size)
{
    if (is_last(is_wanted_file(file), "write")) {
        if (getenv("KILL_HALF") != NULL)
            REAL(write)(file, data, size / 2);
        die();
    }
    return REAL(write)(file, data, size);
}
