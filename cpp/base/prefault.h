// Maps pages of files before their first use, beside other work.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <span>
#include <thread>
#include <vector>

namespace autoglm {

class Prefault {
 public:
  // Starts a thread that maps the pages of these ranges in their order; they must outlive this
  // object. Where there can be no thread, or the kernel cannot do it, pages are mapped when read.
  explicit Prefault(std::vector<std::span<const std::byte>> ranges);
  // Waits for the step the thread is at.
  ~Prefault();
  Prefault(const Prefault&) = delete;
  Prefault& operator=(const Prefault&) = delete;

 private:
  void run() const;

  std::vector<std::span<const std::byte>> ranges_;
  std::atomic<bool> is_stopped_ = false;
  pid_t process_id_;
  std::thread thread_;
};

}  // namespace autoglm
