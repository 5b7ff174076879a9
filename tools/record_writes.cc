// Records what a program does to files below a directory, to replay it up to any point: preloaded
// into the program, it writes every change and every sync to a log. See tools/vault_power_loss.py.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

struct Entry {
  uint8_t kind;
  uint16_t path_bytes;
  uint64_t offset;
  uint32_t data_bytes;
} __attribute__((packed));

template <typename Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

int LogDescriptor() {
  static const int descriptor =
      static_cast<int>(syscall(SYS_openat, AT_FDCWD, std::getenv("RECORD_LOG"),
                               O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  return descriptor;
}

bool IsWatched(const std::string& path) {
  static const std::string root = std::getenv("RECORD_ROOT");
  return path.compare(0, root.size(), root) == 0;
}

void Log(char kind, const std::string& path, uint64_t offset = 0, const void* data = nullptr,
         size_t data_bytes = 0) {
  if (!IsWatched(path)) return;
  const Entry entry{static_cast<uint8_t>(kind), static_cast<uint16_t>(path.size()), offset,
                    static_cast<uint32_t>(data_bytes)};
  std::string record(reinterpret_cast<const char*>(&entry), sizeof(entry));
  record += path;
  record.append(static_cast<const char*>(data), data_bytes);
  if (syscall(SYS_write, LogDescriptor(), record.data(), record.size()) !=
      static_cast<ssize_t>(record.size())) {
    std::abort();
  }
}

std::string PathOf(int descriptor) {
  char link[64];
  char path[PATH_MAX];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
  const ssize_t size = readlink(link, path, sizeof(path));
  return size < 0 ? std::string() : std::string(path, static_cast<size_t>(size));
}

template <typename Open>
int OpenAndLog(const Open& open_file, const char* path, int flags) {
  struct stat status;
  const bool is_new = (flags & O_CREAT) != 0 && stat(path, &status) != 0;
  const int descriptor = open_file();
  if (descriptor >= 0 && is_new) Log('C', PathOf(descriptor));
  if (descriptor >= 0 && (flags & O_TRUNC) != 0) Log('T', PathOf(descriptor));
  return descriptor;
}

mode_t ModeArgument(int flags, va_list arguments) {
  return (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
}

ssize_t WriteAt(int descriptor, const void* data, size_t size, off_t offset) {
  const ssize_t done = syscall(SYS_pwrite64, descriptor, data, size, offset);
  if (done > 0) Log('W', PathOf(descriptor), offset, data, static_cast<size_t>(done));
  return done;
}

int TruncateAt(int descriptor, off_t size) {
  const int result = static_cast<int>(syscall(SYS_ftruncate, descriptor, size));
  if (result == 0) Log('T', PathOf(descriptor), static_cast<uint64_t>(size));
  return result;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = ModeArgument(flags, arguments);
  va_end(arguments);
  return OpenAndLog(
      [&] { return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode)); }, path,
      flags);
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = ModeArgument(flags, arguments);
  va_end(arguments);
  return open(path, flags | O_LARGEFILE, mode);
}

ssize_t pwrite(int descriptor, const void* data, size_t size, off_t offset) {
  return WriteAt(descriptor, data, size, offset);
}

ssize_t pwrite64(int descriptor, const void* data, size_t size, off64_t offset) {
  return WriteAt(descriptor, data, size, offset);
}

ssize_t write(int descriptor, const void* data, size_t size) {
  const off_t offset = lseek(descriptor, 0, SEEK_CUR);
  const ssize_t done = syscall(SYS_write, descriptor, data, size);
  if (done > 0 && offset >= 0) {
    Log('W', PathOf(descriptor), static_cast<uint64_t>(offset), data, static_cast<size_t>(done));
  }
  return done;
}

int ftruncate(int descriptor, off_t size) { return TruncateAt(descriptor, size); }

int ftruncate64(int descriptor, off64_t size) { return TruncateAt(descriptor, size); }

int fsync(int descriptor) {
  Log('S', PathOf(descriptor));
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

int fdatasync(int descriptor) {
  Log('S', PathOf(descriptor));
  return static_cast<int>(syscall(SYS_fdatasync, descriptor));
}

int unlink(const char* path) {
  const int result = Real<int(const char*)>("unlink")(path);
  if (result == 0) Log('U', path);
  return result;
}

int link(const char* from, const char* to) {
  const int result = Real<int(const char*, const char*)>("link")(from, to);
  if (result == 0) Log('L', to, 0, from, std::strlen(from));
  return result;
}

int linkat(int from_directory, const char* from, int to_directory, const char* to, int flags) {
  using Function = int(int, const char*, int, const char*, int);
  const int result = Real<Function>("linkat")(from_directory, from, to_directory, to, flags);
  if (result == 0) Log('L', to, 0, from, std::strlen(from));
  return result;
}

}  // extern "C"
