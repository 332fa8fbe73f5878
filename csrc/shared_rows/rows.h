// Rows of bytes between the processes of one machine, through memory that they share: everybody's row to everybody.
//
// A socket costs a wake-up on each side: .5 ms in the median and 4 ms in one of ten, measured for gloo with two workers
// on two cores, where a batch norm has 2 kB to tell. Here whoever comes last finds the others' rows in its cache, and
// whoever comes first looks again and again for a moment before it lets go of its core.
//
// The memory: a counter and row sizes per process, each in a cache line of its own, then the rows, twice. Exchange n
// uses the rows of parity n. A process writes its row of exchange n + 2 over that of n only after everybody counts n +
// 1, and nobody does before it has read n.
#pragma once

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace dgseg {

class SharedRows {
 public:
  static constexpr int64_t kLine = 64;

  static int64_t bytes(int size, int64_t capacity) { return size * kLine + 2 * size * padded(capacity); }

  // `file` has the bytes above, zeros at first. `processes` are the pids of all, in the order of their ranks.
  SharedRows(int file, int rank, const std::vector<int>& processes, int64_t capacity)
      : rank_(rank), size_(int(processes.size())), capacity_(capacity), processes_(processes) {
    static_assert(std::atomic<uint64_t>::is_always_lock_free);
    struct stat found{};
    if (fstat(file, &found) != 0 || found.st_size < bytes(size_, capacity))
      throw std::runtime_error("the file to share rows through is too small");
    void* mapped = mmap(nullptr, size_t(bytes(size_, capacity)), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) throw std::runtime_error("the file to share rows through cannot be mapped");
    memory_ = static_cast<char*>(mapped);
    for (int process : processes_) watches_.push_back(process == getpid() ? -1 : watch(process));
    for (int other = 0; other < size_; ++other)
      if (other != rank_ && watches_[size_t(other)] < 0) {
        close_all();
        throw std::runtime_error("process " + std::to_string(processes_[size_t(other)]) + " cannot be watched");
      }
  }
  ~SharedRows() { close_all(); }
  SharedRows(const SharedRows&) = delete;
  SharedRows& operator=(const SharedRows&) = delete;

  int size() const { return size_; }
  int64_t capacity() const { return capacity_; }

  // All call it, with rows of the same size, in the same order; `out` gets the rows by rank. After a failure nobody
  // knows any more which row the others are at: all later calls fail, too.
  void gather(const void* row, int64_t bytes, void* out, double timeout) {
    if (busy_.exchange(true))
      throw std::runtime_error("rows are shared by one thread at a time, and not after a failure");
    const uint64_t turn = ++turn_;
    std::memcpy(this->row(rank_, turn), row, size_t(bytes));
    size_of(rank_, turn) = bytes;
    counter(rank_).store(turn, std::memory_order_release);
    for (int step = 1; step < size_; ++step) await((rank_ + step) % size_, turn, timeout);
    for (int other = 0; other < size_; ++other) {
      if (size_of(other, turn) != bytes)
        throw std::runtime_error("rank " + std::to_string(rank_) + " shares a row of " + std::to_string(bytes) +
                                 " bytes and rank " + std::to_string(other) + " one of " +
                                 std::to_string(size_of(other, turn)));
      std::memcpy(static_cast<char*>(out) + other * bytes, this->row(other, turn), size_t(bytes));
    }
    busy_.store(false);
  }

 private:
  static int64_t padded(int64_t capacity) { return (capacity + kLine - 1) / kLine * kLine; }

  static int watch(int process) {
#ifdef SYS_pidfd_open
    return int(syscall(SYS_pidfd_open, process, 0));
#else
    return -1;
#endif
  }

  std::atomic<uint64_t>& counter(int rank) const {
    return *reinterpret_cast<std::atomic<uint64_t>*>(memory_ + rank * kLine);
  }
  int64_t& size_of(int rank, uint64_t turn) const {  // beside the counter, of either parity
    return *reinterpret_cast<int64_t*>(memory_ + rank * kLine + 8 + 8 * (turn % 2));
  }
  char* row(int rank, uint64_t turn) const {
    return memory_ + size_ * kLine + (int64_t(turn % 2) * size_ + rank) * padded(capacity_);
  }

  // The neighbour is mostly there within microseconds. Then other threads of this core may have a turn: a loader, or
  // the very process that is awaited. After milliseconds it is at something long.
  void await(int rank, uint64_t turn, double timeout) const {
    const auto arrived = [&] { return counter(rank).load(std::memory_order_acquire) >= turn; };
    for (int look = 0; look < kLooks; ++look) {
      if (arrived()) return;
      pause();
    }
    const double began = seconds();
    double checked = began;
    while (!arrived()) {
      const double now = seconds();
      if (now - began < kYielding) {
        sched_yield();
        continue;
      }
      if (now - checked > kChecking) {
        checked = now;
        pollfd gone{watches_[size_t(rank)], POLLIN, 0};
        // It may have counted just before it ended.
        if (poll(&gone, 1, 0) > 0 && (gone.revents & POLLIN) && !arrived())
          throw std::runtime_error("rank " + std::to_string(rank) + " (process " +
                                   std::to_string(processes_[size_t(rank)]) + ") has ended; the others waited for it");
        if (now - began > timeout)
          throw std::runtime_error("rank " + std::to_string(rank) + " (process " +
                                   std::to_string(processes_[size_t(rank)]) + ") is not heard of for " +
                                   std::to_string(int64_t(timeout)) + " s");
      }
      const timespec moment{0, now - began < kLong ? 50'000 : 1'000'000};
      nanosleep(&moment, nullptr);
    }
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  static double seconds() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
  }

  void close_all() {
    for (int each : watches_)
      if (each >= 0) close(each);
    munmap(memory_, size_t(bytes(size_, capacity_)));
  }

  static constexpr int kLooks = 2000;         // 20-80 microseconds
  static constexpr double kYielding = 5e-3;   // seconds
  static constexpr double kChecking = 20e-3;  // seconds
  static constexpr double kLong = 100e-3;     // seconds

  char* memory_ = nullptr;
  int rank_, size_;
  int64_t capacity_;
  std::vector<int> processes_;
  std::vector<int> watches_;
  uint64_t turn_ = 0;
  std::atomic<bool> busy_{false};
};

}  // namespace dgseg
