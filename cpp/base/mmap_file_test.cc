// A mapped file that is cut, written to or gone: an error, never the end of the process.
#include "base/mmap_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"

namespace autoglm {
namespace {

constexpr size_t kSize = 64 * 4096 + 100;

// A file of ones that is removed at the end.
class TemporaryFile {
 public:
  TemporaryFile() {
    std::string path = (std::filesystem::temp_directory_path() / "autoglm_XXXXXX").string();
    close(mkstemp(path.data()));
    path_ = path;
    std::ofstream(path_, std::ios::binary) << std::string(kSize, '\1');
    // As old as a model that somebody downloaded: the clock of a file system is coarse.
    const timespec old[2] = {{1000000000, 0}, {1000000000, 0}};
    utimensat(AT_FDCWD, path_.c_str(), old, 0);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }
  void cut(size_t size) const { CHECK_EQ(truncate(path_.c_str(), static_cast<off_t>(size)), 0); }
  void write_byte(size_t offset) const {
    std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<long>(offset)).put('\2');
  }

 private:
  std::string path_;
};

int sum(const MmapFile& file) {
  int total = 0;
  for (size_t i = 0; i < file.size(); ++i) total += std::to_integer<int>(file.data()[i]);
  return total;
}

void test_an_untouched_file_is_intact() {
  const TemporaryFile temporary;
  MmapFile first(temporary.path());
  const MmapFile file(std::move(first));
  file.check_intact();
  CHECK_EQ(sum(file), static_cast<int>(kSize));
  std::filesystem::remove(temporary.path());  // its name is gone, its bytes are not
  file.check_intact();
}

void test_a_cut_file_reads_as_zeros_and_is_reported() {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{4096}, size_t{5000}}) {
    const TemporaryFile temporary;
    const MmapFile file(temporary.path()), other(temporary.path());
    temporary.cut(size);
    CHECK_EQ(sum(file), static_cast<int>(size));
    CHECK_THROWS(kIoError, file.check_intact());
    temporary.cut(kSize);  // the fault stays known
    CHECK_THROWS(kIoError, file.check_intact());
    CHECK_THROWS(kIoError, other.check_intact());
  }
}

void test_a_written_file_is_reported() {
  const TemporaryFile temporary;
  const MmapFile file(temporary.path());
  temporary.write_byte(kSize - 1);
  CHECK_THROWS(kIoError, file.check_intact());
}

void test_threads_may_meet_the_end_together() {
  for (int round = 0; round < 50; ++round) {
    const TemporaryFile temporary;
    const MmapFile file(temporary.path());
    std::atomic<bool> may_start = false;
    std::atomic<long> total = 0;
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i) {
      readers.emplace_back([&] {
        while (!may_start) std::this_thread::yield();
        for (int pass = 0; pass < 3; ++pass) total += sum(file);
      });
    }
    may_start = true;
    temporary.cut(round * 4096);
    for (std::thread& reader : readers) reader.join();
    CHECK(total <= 9 * static_cast<long>(kSize));
    CHECK_THROWS(kIoError, file.check_intact());
  }
}

// A handler from before ours, which main() installs.
void end_with_seven(int) { _exit(7); }

void test_a_fault_elsewhere_goes_to_the_earlier_handler() {
  const TemporaryFile temporary;
  const MmapFile guarded(temporary.path());
  const int descriptor = open(temporary.path().c_str(), O_RDONLY);
  const void* foreign = mmap(nullptr, kSize, PROT_READ, MAP_SHARED, descriptor, 0);
  temporary.cut(0);
  const pid_t child = fork();
  if (child == 0) _exit(static_cast<const volatile char*>(foreign)[4096]);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 7);
  munmap(const_cast<void*>(foreign), kSize);
  close(descriptor);
}

void test_a_sent_signal_goes_to_the_earlier_handler() {
  const TemporaryFile temporary;
  const MmapFile guarded(temporary.path());
  const pid_t child = fork();
  if (child == 0) {
    raise(SIGBUS);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK_EQ(WEXITSTATUS(status), 7);
}

}  // namespace
}  // namespace autoglm

int main() {
  signal(SIGBUS, autoglm::end_with_seven);
  autoglm::test_an_untouched_file_is_intact();
  autoglm::test_a_cut_file_reads_as_zeros_and_is_reported();
  autoglm::test_a_written_file_is_reported();
  autoglm::test_threads_may_meet_the_end_together();
  autoglm::test_a_fault_elsewhere_goes_to_the_earlier_handler();
  autoglm::test_a_sent_signal_goes_to_the_earlier_handler();
  return autoglm::test::finish_tests();
}
