// The matrix product of both directions: out[row][pixel] = sum over i of left[row][i] * panel[i][pixel].
//
// A panel holds two vectors of pixels per i. `left` is packed in blocks of at most kRows rows, each [inner][rows of
// the block]: kRows x 2 accumulators stay in registers, and every value of `left` is broadcast from the cache. Rows are
// spread evenly over the blocks (57 rows: 12, 12, 11, 11, 11), so no padded row is ever multiplied.
#pragma once
#include "../common/simd.h"

namespace dgseg::DGSEG_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 12;  // 24 accumulators of 32 registers
#else
constexpr int kRows = 6;  // 12 of 16
#endif

template <class T>
constexpr int kPanel = 2 * Lanes<T>::n;  // pixels per panel

struct RowBlocks {
  int64_t blocks, smaller, larger_blocks;
  explicit RowBlocks(int64_t rows)
      : blocks((rows + kRows - 1) / kRows),
        smaller(rows / (blocks ? blocks : 1)),
        larger_blocks(rows - smaller * blocks) {}
  int64_t begin(int64_t block) const { return block * smaller + (block < larger_blocks ? block : larger_blocks); }
  int64_t rows(int64_t block) const { return smaller + (block < larger_blocks); }
};

// packed = the rows of left (left[row * row_stride + i * inner_stride]) in blocks.
template <class T>
void pack_rows(T* packed, const T* left, int64_t rows, int64_t inner, int64_t row_stride, int64_t inner_stride) {
  const RowBlocks split(rows);
  for (int64_t block = 0; block < split.blocks; ++block)
    for (int64_t i = 0; i < inner; ++i)
      for (int64_t row = split.begin(block); row < split.begin(block) + split.rows(block); ++row)
        *packed++ = left[row * row_stride + i * inner_stride];
}

// Calls finish(row, sums) for every row; sums has one vector per half panel (V = 1: the second half is not computed).
template <class T, int V, int R, class Finish>
DGSEG_INLINE void multiply_block(const T* __restrict left, const T* __restrict panel, int64_t inner, int64_t first_row,
                                 const Finish& finish) {
  using f = typename Lanes<T>::f;
  f sums[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[r][v] = f{};
  for (int64_t i = 0; i < inner; ++i, left += R, panel += kPanel<T>) {
    f right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) right[v] = load(panel + v * Lanes<T>::n);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] += right[v] * left[r];
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) finish(first_row + r, sums[r]);
}

template <class T, int V, int R, class Finish>
DGSEG_INLINE void multiply_rows(int64_t rows, const T* left, const T* panel, int64_t inner, int64_t first_row,
                                const Finish& finish) {
  if constexpr (R > 0) {
    if (rows == R)
      multiply_block<T, V, R>(left, panel, inner, first_row, finish);
    else
      multiply_rows<T, V, R - 1>(rows, left, panel, inner, first_row, finish);
  }
}

template <class T, int V, class Finish>
void multiply(const T* packed, int64_t rows, const T* panel, int64_t inner, const Finish& finish) {
  const RowBlocks split(rows);
  for (int64_t block = 0; block < split.blocks; ++block)
    multiply_rows<T, V, kRows>(split.rows(block), packed + split.begin(block) * inner, panel, inner, split.begin(block),
                               finish);
}

}  // namespace
}  // namespace dgseg::DGSEG_ISA
