// Every bit of a scene is fixed: its hash is the same under every instruction set and as committed here. A change of
// the world changes them; it is then a new world, whose results do not compare with the old one's.
#include <cstring>
#include <vector>

#include "../common/test.h"
#include "kernel.h"

namespace {

using namespace dgseg;

struct Rendering {
  std::vector<uint8_t> label, image;
  std::vector<float> depth;
};

Rendering render(int domain, uint64_t seed, uint64_t index, int64_t height, int64_t width, float misalignment = 0,
                 bool unknown = false, bool image = true, const StreetsShift* shift = nullptr) {
  const size_t pixels = size_t(height * width);
  // Poisoned: what is not written would show.
  Rendering out{std::vector<uint8_t>(pixels, 77), std::vector<uint8_t>(3 * pixels, 77), std::vector<float>(pixels, -1)};
  DGSEG_PICK(streets_render)({StreetsDomain(domain), seed, index, height, width, misalignment, unknown,
                              out.label.data(), image ? out.image.data() : nullptr, out.depth.data(), shift});
  return out;
}

uint64_t hash(const Rendering& scene) {
  uint64_t h = 0xcbf29ce484222325ull;
  auto add = [&](uint8_t byte) { h = (h ^ byte) * 0x100000001b3ull; };
  for (uint8_t v : scene.label) add(v);
  for (uint8_t v : scene.image) add(v);
  for (float v : scene.depth) {
    uint32_t word;
    std::memcpy(&word, &v, sizeof word);
    for (int k = 0; k < 4; ++k) add(uint8_t(word >> 8 * k));
  }
  return h;
}

constexpr uint64_t kGolden[kStreetsDomains] = {
    0x883d146461c9d700ull, 0x2301119cf788f86dull, 0xc0aeab71ecb8e6ebull, 0x296578349830e6b5ull, 0xa0d1af33b8ba42f8ull,
    0x465b0fe694c78d67ull, 0xec109eb2244570fdull, 0x09b53e4419aa0ee8ull, 0x74dc3ac9856adbe7ull, 0x70247108f27a2371ull,
};

// Prints them all, so that a deliberate change of the world can be committed.
void golden() {
  bool equal = true;
  for (int domain = 0; domain < kStreetsDomains; ++domain) {
    uint64_t all = 0;
    for (uint64_t index = 0; index < 6; ++index)
      all = all * 31 + hash(render(domain, index / 3, 1000000 * index, 96, 192 + 7 * int64_t(index),
                                   domain == 1 ? 1.5f : 0.0f, index == 5));
    if (all != kGolden[domain]) std::fprintf(stderr, "domain %d: 0x%016llxull,\n", domain, (unsigned long long)all);
    equal = equal && all == kGolden[domain];
  }
  CHECK(equal, "the world has changed");
}

// Scenes under another look, with two objects pasted in: training data, and as fixed as the world.
constexpr uint64_t kShiftedGolden = 0xcf9cacee78eadad0ull;

void shifted_golden() {
  uint64_t all = 0;
  std::vector<uint8_t> mask(96 * 192, 0);
  for (int y = 50; y < 80; ++y)
    for (int x = 40; x < 60; ++x) mask[size_t(y * 192 + x)] = 1, mask[size_t((y - 45) * 192 + x + 80)] = 2;
  for (uint64_t index = 0; index < 6; ++index) {
    const StreetsShift shift{index * 77, index % 3 != 1, index % 3 != 2, index % 2 ? mask.data() : nullptr};
    all = all * 31 + hash(render(int(index % 2), 5, index, 96, 192, index == 4 ? 1.5f : 0.0f, false, true, &shift));
  }
  CHECK(all == kShiftedGolden, "shifted scenes have changed: 0x%016llxull", (unsigned long long)all);
}

// Nothing but what is pasted moves, and that goes where the mask says.
void shift_keeps_the_plan(int64_t height, int64_t width) {
  const Rendering plain = render(0, 3, 17, height, width);
  std::vector<uint8_t> mask(size_t(height * width), 0);
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = i % 7 == 0 ? 255 : i % 5 == 0;
  const StreetsShift look{9, true, true, nullptr}, all{9, true, true, mask.data()};
  const Rendering other = render(0, 3, 17, height, width, 0, false, true, &look);
  CHECK(other.label == plain.label && other.depth == plain.depth, "another look moved a label");
  if (height > 32) CHECK(other.image != plain.image, "another look changed no pixel");
  const Rendering pasted = render(0, 3, 17, height, width, 0, false, true, &all);
  for (size_t i = 0; i < mask.size(); ++i)
    CHECK(pasted.label[i] == (mask[i] ? 254 : plain.label[i]), "label %d at %zu", pasted.label[i], i);
  CHECK(render(0, 3, 17, height, width, 0, false, false, &all).label == pasted.label, "labels alone differ");
}

// Labels are classes, or 254 where unknown objects were asked for; depth is positive on all but the sky.
void plausible(const Rendering& scene, bool unknown) {
  for (size_t i = 0; i < scene.label.size(); ++i) {
    CHECK(scene.label[i] < 19 || (unknown && scene.label[i] == 254), "label %d", scene.label[i]);
    CHECK((scene.label[i] == 10) == (scene.depth[i] == 0), "label %d at depth %f", scene.label[i],
          double(scene.depth[i]));
    CHECK(scene.depth[i] >= 0 && scene.depth[i] < 1e5f, "depth %f", double(scene.depth[i]));
  }
}

}  // namespace

int main() {
  golden();
  shifted_golden();
  // Tiny, narrow, tall, single pixels: nothing may be read or written outside; large: 32-bit offsets suffice.
  const int64_t sizes[][2] = {{1, 1}, {1, 40}, {40, 1}, {32, 64}, {33, 65}, {64, 48}, {50, 300}, {512, 1024}};
  for (auto [height, width] : sizes) shift_keeps_the_plan(height, width);
  for (auto [height, width] : sizes)
    for (int domain = 0; domain < kStreetsDomains; ++domain) {
      const bool unknown = domain % 2 == 0;
      const Rendering scene = render(domain, 3, 17, height, width, 0, unknown);
      plausible(scene, unknown);
      const Rendering plan = render(domain, 3, 17, height, width, 0, unknown, false);
      CHECK(plan.label == scene.label && plan.depth == scene.depth, "labels alone differ at domain %d", domain);
      const Rendering strayed = render(domain, 3, 17, height, width, 4, unknown);
      CHECK(strayed.label == scene.label && strayed.depth == scene.depth, "misalignment moved labels of %d", domain);
      if (height > 32) CHECK(strayed.image != scene.image, "misalignment moved no pixel of domain %d", domain);
    }
  std::puts("ok");
}
