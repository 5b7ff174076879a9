// Error type of the native core. Codes are ranges that Python maps to exception classes
// (errors.from_core): 1xx model file, 2xx configuration or shape, 3xx argument, 4xx resource,
// 5xx cancelled, 6xx input/output, 7xx the form of an answer.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace autoglm {

enum ErrorCode : int {
  kModelFileError = 101,
  kConfigError = 201,
  kArgumentError = 301,
  kOutOfMemoryError = 401,
  kContextFullError = 402,
  kCancelledError = 501,
  kIoError = 601,
  kFormError = 701,
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string message)
      : std::runtime_error(std::move(message)), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace autoglm
