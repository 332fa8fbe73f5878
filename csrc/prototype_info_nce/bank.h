// The prototypes as the kernels use them: seen ones only, of length 1, packed for both products.
#pragma once
#include <cmath>

#include "../common/scratch.h"
#include "kernel.h"
#include "multiply.h"

namespace dgseg::DGSEG_ISA {
namespace {

constexpr double kSmallestLength = 1e-12;  // as torch.nn.functional.normalize: x / max(|x|, 1e-12)

template <class T>
class Bank {
 public:
  explicit Bank(const PrototypeInfoNceArgs& a)
      : entries_(a.classes * a.granularities),
        channels_(a.channels),
        granularities_(a.granularities),
        nested_(a.nested),
        weights_(static_cast<const T*>(a.weights)),
        column_(entries_),
        usable_(entries_),
        rows_(entries_ * a.channels),
        by_prototype_(entries_ * a.channels),
        by_channel_(entries_ * a.channels) {
    for (int64_t entry = 0; entry < entries_; ++entry) {
      column_[entry] = -1;
      if (a.seen && !a.seen[entry]) continue;
      const T* from = static_cast<const T*>(a.prototypes) + entry * channels_;
      double square = 0;
      for (int64_t d = 0; d < channels_; ++d) square += double(from[d]) * double(from[d]);
      double length = std::sqrt(square);
      if (length < kSmallestLength) length = kSmallestLength;
      for (int64_t d = 0; d < channels_; ++d) rows_[seen_ * channels_ + d] = T(double(from[d]) / length);
      column_[entry] = seen_++;
    }
    for (int64_t entry = 0; entry < entries_; ++entry) {
      usable_[entry] = false;
      each_term(entry, [&](int64_t, T) { usable_[entry] = true; });
    }
    pack_rows(by_prototype_.get(), rows_.get(), seen_, channels_, channels_, 1);
    pack_rows(by_channel_.get(), rows_.get(), channels_, seen_, 1, channels_);
  }

  int64_t seen() const { return seen_; }
  int64_t channels() const { return channels_; }
  const T* by_prototype() const { return by_prototype_.get(); }  // left of similarity[k] = sum over channels
  const T* by_channel() const { return by_channel_.get(); }      // left of gradient[channel] = sum over k

  // Entry = class * granularities + band of a pixel. Whether the pixel has any term at all:
  bool usable(int64_t entry) const { return usable_[entry]; }

  // Calls term(k, weight) for every seen prototype that the pixel belongs to; k counts seen prototypes.
  template <class Term>
  DGSEG_INLINE void each_term(int64_t entry, const Term& term) const {
    const int64_t end = nested_ ? (entry / granularities_ + 1) * granularities_ : entry + 1;
    for (; entry < end; ++entry)
      if (column_[entry] >= 0) term(column_[entry], weights_[entry]);
  }

 private:
  int64_t entries_, channels_, granularities_;
  bool nested_;
  const T* weights_;
  int64_t seen_ = 0;
  Scratch<int64_t> column_;
  Scratch<bool> usable_;
  Scratch<T> rows_, by_prototype_, by_channel_;
};

}  // namespace
}  // namespace dgseg::DGSEG_ISA
