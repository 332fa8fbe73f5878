// Task-local buffers. Anonymous on purpose: see isa.h.
#pragma once
#include <cstdint>
#include <cstdlib>

namespace dgseg {
namespace {

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(
            std::aligned_alloc(64, static_cast<size_t>(round_up(count * int64_t(sizeof(T)) + 1, 64))))) {
    if (!data_) std::abort();
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

}  // namespace
}  // namespace dgseg
