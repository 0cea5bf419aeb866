// Before the C library's own preadv (LD_PRELOAD): once told to, reads of one length at one offset fail as a bad disk's do.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/uio.h>

static long long failing_offset = -1, failing_length = -1;

void fail_reads(long long offset, long long length) {
  failing_offset = offset;
  failing_length = length;
}

static ssize_t read_or_fail(const char* name, int fd, const struct iovec* parts, int count, long long offset) {
  long long length = 0;
  for (int i = 0; i < count; ++i) length += (long long)parts[i].iov_len;
  if (offset == failing_offset && length == failing_length) {
    errno = EIO;
    return -1;
  }
  ssize_t (*real)(int, const struct iovec*, int, off64_t) = dlsym(RTLD_NEXT, name);
  return real(fd, parts, count, offset);
}

ssize_t preadv(int fd, const struct iovec* parts, int count, off_t offset) {
  return read_or_fail("preadv64", fd, parts, count, offset);
}

ssize_t preadv64(int fd, const struct iovec* parts, int count, off64_t offset) {
  return read_or_fail("preadv64", fd, parts, count, offset);
}
