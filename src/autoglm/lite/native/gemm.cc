// Matrix products for training: bf16 operands, fp32 sums, weights packed once per update.
#include <omp.h>

#include <algorithm>

#include "tiles.h"

namespace lite {
namespace {

constexpr int kMaxRows = 512;  // rows of A packed at once: a quarter of L2 with the widest K slice
constexpr int kMaxDepth = 20;  // tiles along K: B's panel of 32 columns stays in L1
// Larger outputs bypass the caches: reading their lines first would cost more than the product.
constexpr long kStreamBytes = 8L << 20;

thread_local Scratch<bf16> packed_rows;
thread_local Scratch<float> sums;

struct Product {
  int m, n, k;
  const bf16* a;
  long a_stride;
  bool a_is_transposed;  // a is stored [k, m]
  const bf16* b;         // packed
  float* sum;            // [m, n], added to; or null
  bf16* out;             // [m, n], written; or null
  const bf16* residual;  // [m, n], added before writing; or null
};

// A row of a block is one cache line of the output, written at once.
void narrow_block(const Product& p, const float* c, long c_stride, long at) {
  const bool is_streamed = static_cast<long>(p.m) * p.n * 2 >= kStreamBytes;
  for (int r = 0; r < kBlock; ++r, at += p.n) {
    __m512 low = _mm512_loadu_ps(c + r * c_stride);
    __m512 high = _mm512_loadu_ps(c + r * c_stride + 16);
    if (p.residual != nullptr) {
      low = _mm512_add_ps(low, widen(p.residual + at));
      high = _mm512_add_ps(high, widen(p.residual + at + 16));
    }
    const __m512i line = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    if (is_streamed) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(p.out + at), line);
    } else {
      _mm512_store_si512(p.out + at, line);
    }
  }
}

void pack_left(const Product& p, int row, int rows, int k_tile, int depth, bf16* packed) {
  const auto tile = [&](int r, int k) {
    return packed + (static_cast<long>(r / kTileRows) * depth + k) * kTileElements;
  };
  if (!p.a_is_transposed) {
    for (int r = 0; r < rows; r += kTileRows) {
      const bf16* from = p.a + (row + r) * p.a_stride + static_cast<long>(k_tile) * kTileK;
      for (int k = 0; k < depth; ++k)
        tile_from_rows(from + k * kTileK, p.a_stride, false, tile(r, k));
    }
    return;
  }
  for (int k = 0; k < depth; ++k) {
    const bf16* from = p.a + static_cast<long>(k_tile + k) * kTileK * p.a_stride + row;
    for (int r = 0; r < rows; r += kTileRows)
      tile_from_columns(from + r, p.a_stride, true, tile(r, k));
  }
}

// The share of B's next two panels that the block at row r fetches.
Ahead ahead_of(const bf16* next, long panel, int depth, int r, int rows) {
  const int blocks = rows / kBlock;
  const int half = 2 * (r / kBlock) / blocks;
  const int within = r / kBlock - half * ((blocks + 1) / 2);
  const int lines = (2 * kTileRows + blocks - 1) / blocks;
  return {next + half * panel + static_cast<long>(std::max(within, 0)) * depth * lines * kTileK,
          lines};
}

void multiply_rows(const Product& p, int row, int rows) {
  const int k_tiles = p.k / kTileK;
  const int slices = (k_tiles + kMaxDepth - 1) / kMaxDepth;
  const int slice = (k_tiles + slices - 1) / slices;
  const long b_panel = static_cast<long>(k_tiles) * kTileElements;
  bf16* left = packed_rows.get(static_cast<std::size_t>(rows) * slice * kTileK);
  const bool keeps_all = p.sum == nullptr && slices > 1;
  float* own = sums.get(keeps_all ? static_cast<std::size_t>(rows) * p.n : kBlock * kBlock);
  const long stride = p.sum != nullptr || keeps_all ? p.n : kBlock;
  const TileScope tiles;
  for (int k_tile = 0; k_tile < k_tiles; k_tile += slice) {
    const int depth = std::min(slice, k_tiles - k_tile);
    pack_left(p, row, rows, k_tile, depth, left);
    for (int col = 0; col < p.n; col += kBlock) {
      const bf16* right = p.b + col / 16 * b_panel + static_cast<long>(k_tile) * kTileElements;
      for (int r = 0; r < rows; r += kBlock) {
        const long at = static_cast<long>(row + r) * p.n + col;
        float* c = p.sum != nullptr ? p.sum + at
                   : keeps_all      ? own + static_cast<long>(r) * p.n + col
                                    : own;
        multiply_block(left + static_cast<long>(r / kTileRows) * depth * kTileElements,
                       static_cast<long>(depth) * kTileElements, right, b_panel, depth,
                       p.sum != nullptr || k_tile > 0, c, stride,
                       ahead_of(right + 2 * b_panel, b_panel, depth, r, rows));
        if (p.out != nullptr && k_tile + depth == k_tiles) narrow_block(p, c, stride, at);
      }
    }
  }
}

}  // namespace
}  // namespace lite

using namespace lite;

// Packs the right operand b[k, n], or b stored as [n, k] when it is transposed. n and k are
// multiples of 32.
extern "C" void lite_pack_right(const bf16* b, long k, long n, int is_transposed, bf16* packed) {
  const long k_tiles = k / kTileK;
  if (is_transposed != 0) {
#pragma omp parallel for schedule(static)
    for (long col = 0; col < n; col += 16) {
      bf16* panel = packed + col / 16 * k_tiles * kTileElements;
      for (long tile = 0; tile < k_tiles; ++tile) {
        tile_from_rows(b + col * k + tile * kTileK, k, true, panel + tile * kTileElements);
      }
    }
    return;
  }
#pragma omp parallel for schedule(static)
  for (long tile = 0; tile < k_tiles; ++tile) {
    for (long col = 0; col < n; col += 16) {
      tile_from_columns(b + tile * kTileK * n + col, n, false,
                        packed + (col / 16 * k_tiles + tile) * kTileElements);
    }
  }
}

// out = a * b + residual, or sum += a * b; the results do not depend on the number of threads.
extern "C" void lite_multiply(long m, long n, long k, const bf16* a, int a_is_transposed,
                              const bf16* b, float* sum, bf16* out, const bf16* residual) {
  const Product product{static_cast<int>(m),
                        static_cast<int>(n),
                        static_cast<int>(k),
                        a,
                        a_is_transposed ? m : k,
                        a_is_transposed != 0,
                        b,
                        sum,
                        out,
                        residual};
  const long share = m / (2L * omp_get_max_threads()) / kBlock * kBlock;
  const long step = std::clamp<long>(share, kBlock, kMaxRows);
#pragma omp parallel for schedule(dynamic, 1)
  for (long row = 0; row < m; row += step) {
    multiply_rows(product, static_cast<int>(row), static_cast<int>(std::min(step, m - row)));
  }
}
