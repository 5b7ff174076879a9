// Pages of the KV cache as plain bytes, so that the work of one process can serve another.
//
// A page is named by all tokens up to its end. Bytes go back only into a cache of the same model,
// geometry and kernels: the caller sees to that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/kv_cache.h"

namespace autoglm {

// How many leading tokens of `ids` have reusable pages.
int num_cached_tokens(KvCache& cache, std::span<const int32_t> ids);

// Copies the page that ends with the last of `ids`, whole pages of tokens, to `out` of
// cache.page_bytes(). False when it is not reusable (any more).
bool export_page(KvCache& cache, std::span<const int32_t> ids, std::span<std::byte> out);

// Makes such bytes the reusable page that ends with the last of `ids`. False when the pages before
// it are not there or no page is free. Throws Error(kArgumentError).
bool import_page(KvCache& cache, std::span<const int32_t> ids, std::span<const std::byte> bytes);

}  // namespace autoglm
