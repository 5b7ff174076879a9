// The few lines of test support the native tests need: a failed CHECK prints where and why, and
// finish_tests() turns the count into the exit status and the closing line that test runners read.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "base/error.h"

namespace autoglm::test {

inline int num_passed = 0;
inline int num_failed = 0;

inline void record(bool is_ok, const char* file, int line, const std::string& text) {
  if (is_ok) {
    ++num_passed;
    return;
  }
  ++num_failed;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, text.c_str());
}

template <typename A, typename B>
void record_equal(const A& a, const B& b, const char* file, int line, const char* text) {
  if (a == b) {
    ++num_passed;
    return;
  }
  std::ostringstream message;
  message << text << ": " << a << " != " << b;
  record(false, file, line, message.str());
}

// Passes when body() throws Error with this code.
template <typename Body>
void record_throws(int code, const Body& body, const char* file, int line, const char* text) {
  std::string seen = "threw nothing";
  try {
    body();
  } catch (const Error& error) {
    if (error.code() == code) {
      ++num_passed;
      return;
    }
    seen = "threw code " + std::to_string(error.code()) + ": " + error.what();
  }
  record(false, file, line, std::string(text) + ": " + seen);
}

// Every path of this processor; with AUTOGLM_ISA the scalar path and the one it names.
inline std::vector<Isa> tested_isas() {
  const char* named = std::getenv("AUTOGLM_ISA");
  if (named == nullptr || *named == '\0') return supported_isas();
  const Isa isa = select_isa(named);
  return isa == Isa::kScalar ? std::vector{isa} : std::vector{Isa::kScalar, isa};
}

inline int finish_tests() {
  std::printf("%d passed, %d failed\n", num_passed, num_failed);
  return num_failed == 0 && num_passed > 0 ? 0 : 1;
}

}  // namespace autoglm::test

#define CHECK(condition) \
  ::autoglm::test::record(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
#define CHECK_EQ(a, b) ::autoglm::test::record_equal((a), (b), __FILE__, __LINE__, #a " == " #b)
#define CHECK_THROWS(code, statement) \
  ::autoglm::test::record_throws((code), [&] { statement; }, __FILE__, __LINE__, #statement)
