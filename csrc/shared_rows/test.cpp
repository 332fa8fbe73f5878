// Three processes, thousands of rows of changing sizes, each row checked by each process; then rows whose sizes differ,
// one process that dies, and one that lets the others wait.
#include "rows.h"

#include <signal.h>
#include <sys/wait.h>

#include <cstdio>

#include "../common/test.h"

namespace {

using dgseg::SharedRows;

constexpr int kSize = 3;
constexpr int64_t kCapacity = 4096 + 8;

int shared_file() {
  const int file = int(syscall(SYS_memfd_create, "rows", 0));
  CHECK(file >= 0 && ftruncate(file, SharedRows::bytes(kSize, kCapacity)) == 0, "memory to share");
  return file;
}

// Runs `body(rank, processes)` in three processes; their exit codes. A pipe tells all of them everybody's pid.
template <class Body>
std::vector<int> in_processes(Body body) {
  int pipes[kSize][2];
  std::vector<int> processes;
  for (int rank = 0; rank < kSize; ++rank) {
    CHECK(pipe(pipes[rank]) == 0, "pipe");
    const int child = fork();
    if (child == 0) {
      std::vector<int> told(kSize);
      if (read(pipes[rank][0], told.data(), sizeof(int) * kSize) != ssize_t(sizeof(int) * kSize)) _exit(90);
      _exit(body(rank, told));
    }
    processes.push_back(child);
  }
  for (int rank = 0; rank < kSize; ++rank)
    CHECK(write(pipes[rank][1], processes.data(), sizeof(int) * kSize) == ssize_t(sizeof(int) * kSize), "write");
  std::vector<int> codes;
  for (int child : processes) {
    int status = 0;
    waitpid(child, &status, 0);
    codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  return codes;
}

double value(int rank, int turn, int place) { return 1e6 * rank + turn + 1e-3 * place; }

void check_rows() {
  const int file = shared_file();
  const auto codes = in_processes([&](int rank, const std::vector<int>& processes) {
    SharedRows rows(file, rank, processes, kCapacity);
    std::vector<double> out;
    for (int turn = 0; turn < 20000; ++turn) {
      const int count = turn * 37 % 514;  // 0 to the capacity
      std::vector<double> row;
      for (int i = 0; i < count; ++i) row.push_back(value(rank, turn, i));
      out.assign(size_t(kSize * count), -1);
      rows.gather(row.data(), count * 8, out.data(), 60);
      for (int other = 0; other < kSize; ++other)
        for (int i = 0; i < count; ++i)
          if (out[size_t(other * count + i)] != value(other, turn, i)) return 1;
      if (turn % 5000 == 1000 * rank) usleep(20000);  // the others let go of their cores
    }
    return 0;
  });
  for (int code : codes) CHECK(code == 0, "a process ended with %d", code);
  close(file);
}

// Two wait for one that is gone, and hear of it long before their timeout; its zombie is still there.
void check_death() {
  const int file = shared_file();
  const auto codes = in_processes([&](int rank, const std::vector<int>& processes) {
    SharedRows rows(file, rank, processes, kCapacity);
    double out[kSize];
    const double row = rank;
    rows.gather(&row, 8, out, 60);
    if (rank == 0) raise(SIGKILL);
    try {
      rows.gather(&row, 8, out, 60);
    } catch (const std::runtime_error& error) {
      return std::strstr(error.what(), "has ended") ? 7 : 8;
    }
    return 9;
  });
  CHECK(codes[0] == 128 + SIGKILL && codes[1] == 7 && codes[2] == 7, "codes %d %d %d", codes[0], codes[1], codes[2]);
  close(file);
}

void check_timeout() {
  const int file = shared_file();
  const auto codes = in_processes([&](int rank, const std::vector<int>& processes) {
    SharedRows rows(file, rank, processes, kCapacity);
    double out[kSize];
    const double row = rank;
    if (rank == 0) return usleep(1'000'000), 0;
    try {
      rows.gather(&row, 8, out, .3);
    } catch (const std::runtime_error& error) {
      return std::strstr(error.what(), "not heard of") || std::strstr(error.what(), "has ended") ? 7 : 8;
    }
    return 9;
  });
  CHECK(codes[0] == 0 && codes[1] == 7 && codes[2] == 7, "codes %d %d %d", codes[0], codes[1], codes[2]);
  close(file);
}

// Rows of different sizes are a mistake, told on every rank; nothing is shared after it.
void check_sizes() {
  const int file = shared_file();
  const auto codes = in_processes([&](int rank, const std::vector<int>& processes) {
    SharedRows rows(file, rank, processes, kCapacity);
    double row[2] = {1, 2}, out[2 * kSize];
    rows.gather(row, 16, out, 60);
    int told = 0;
    for (int attempt = 0; attempt < 2; ++attempt) {
      try {
        rows.gather(row, rank == 1 ? 8 : 16, out, 60);
      } catch (const std::runtime_error& error) {
        told += std::strstr(error.what(), attempt ? "not after a failure" : "bytes and rank") != nullptr;
      }
    }
    usleep(200'000);  // for the others to see it alive
    return told;
  });
  for (int code : codes) CHECK(code == 2, "a process ended with %d", code);
  close(file);
}

}  // namespace

int main() {
  check_rows();
  check_sizes();
  check_death();
  check_timeout();
  std::printf("ok (%s)\n", dgseg::isa_name(dgseg::current_isa()));
  return 0;
}
