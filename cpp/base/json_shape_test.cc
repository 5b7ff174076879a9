// Sizes of JSON texts, and no reading beyond what is none.
#include "base/json_shape.h"

#include <string>

#include "base/check.h"

namespace autoglm {
namespace {

JsonShape shape_of(const std::string& text) {
  return json_shape(std::as_bytes(std::span(text.data(), text.size())));
}

void test_values_containers_and_depth_are_counted() {
  const JsonShape shape = shape_of(R"({"a": [1, 2, {"b": null}], "c": {}})");
  CHECK_EQ(shape.num_containers, 4u);
  CHECK_EQ(shape.depth, 3u);
  CHECK(shape.num_values >= 7);
  CHECK(shape.num_values <= 9);
  CHECK_EQ(shape_of("[]").depth, 1u);
  CHECK_EQ(shape_of("17").num_containers, 0u);
}

void test_strings_count_once_whatever_they_hold() {
  const JsonShape shape = shape_of(R"(["[[[{{{,,,", "\\", "\",[", "x"])");
  CHECK_EQ(shape.num_containers, 1u);
  CHECK_EQ(shape.depth, 1u);
  CHECK_EQ(shape.num_values, 5u);
}

void test_texts_that_are_no_json_end() {
  for (const char* text : {"", "\"", "\"\\", "]]]]", "}{", "\"abc", "[[[["}) {
    CHECK(shape_of(text).depth <= 4);
  }
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_values_containers_and_depth_are_counted();
  autoglm::test_strings_count_once_whatever_they_hold();
  autoglm::test_texts_that_are_no_json_end();
  return autoglm::test::finish_tests();
}
