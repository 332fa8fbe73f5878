// What the passes share beside ../common/logit_blocks.h: band membership, and what a task function is given.
// cpu.cpp has the legend. Anonymous: see isa.h.
#pragma once
#include "../common/logit_blocks.h"
#include "kernel.h"

namespace dgseg::DGSEG_ISA {
namespace {

struct BandedLabels : BlockLabels {
  alignas(64) int32_t band[kBlock];  // 1 inside a band, and valid
};

// Returns whether a label was wrong. bands == nullptr: no band anywhere, and `band` is not written.
inline bool read_labels(const LogitsAndLabels& in, const uint8_t* bands, int64_t offset, int64_t count,
                        BandedLabels& block) {
  const bool wrong = read_labels(in, offset, count, block);
  if (bands) {
    for (int64_t p = 0; p < count; ++p) block.band[p] = (bands[offset + p] != 0) & (block.label[p] >= 0);
    for (int64_t p = count; p < kBlock; ++p) block.band[p] = 0;
  }
  return wrong;
}

struct TaskResult {
  EntropyMoments moments;
  BadLabel bad;
};

// Everything a task function needs beside its number.
template <class Args>
struct Job {
  Args* args;
  TaskResult* results;
  const void* rows;     // Axis<T> of the height, when upsampling
  const void* columns;  // Axis<T> of the width
};

}  // namespace
}  // namespace dgseg::DGSEG_ISA
