// Which kernel paths a processor gets. The argument, where given, is the list this processor must
// have, as the tests for emulated processors know it.
#include "base/cpu_features.h"

#include <cstdlib>
#include <string>

#include "base/check.h"

namespace autoglm {
namespace {

std::string supported_names() {
  std::string names;
  for (const Isa isa : supported_isas()) {
    if (!names.empty()) names += ' ';
    names += isa_name(isa);
  }
  return names;
}

void test_the_best_path_is_selected_unless_one_is_named() {
  unsetenv("AUTOGLM_ISA");
  CHECK(supported_isas().front() == Isa::kScalar);
  CHECK(select_isa("") == supported_isas().back());
  for (const Isa isa : supported_isas()) {
    CHECK(select_isa(isa_name(isa)) == isa);
    setenv("AUTOGLM_ISA", std::string(isa_name(isa)).c_str(), 1);
    CHECK(select_isa("") == isa);
    CHECK(select_isa("scalar") == Isa::kScalar);
  }
  setenv("AUTOGLM_ISA", "", 1);
  CHECK(select_isa("") == supported_isas().back());
}

// No processor has all of them.
void test_a_path_of_another_processor_is_refused() {
  int num_refused = 0;
  for (const char* name : {"avx2", "avx512", "amx", "neon", "dotprod", "i8mm"}) {
    if (supported_names().find(name) != std::string::npos) continue;
    CHECK_THROWS(kArgumentError, select_isa(name));
    ++num_refused;
  }
  CHECK(num_refused >= 3);
  CHECK_THROWS(kArgumentError, select_isa("mips"));
}

}  // namespace
}  // namespace autoglm

int main(int argc, char** argv) {
  if (argc > 1) CHECK_EQ(autoglm::supported_names(), argv[1]);
  autoglm::test_the_best_path_is_selected_unless_one_is_named();
  autoglm::test_a_path_of_another_processor_is_refused();
  return autoglm::test::finish_tests();
}
