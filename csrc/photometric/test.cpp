// Every distortion against the textbook's HSV in double, over sizes around the vectors' width.
#include <algorithm>
#include <cmath>

#include "../common/test.h"
#include "kernel.h"

namespace {

using namespace dgseg;

double clamp(double v) { return std::min(std::max(v, 0.0), 255.0); }

void expected(const uint8_t* in, double* out, const Distortion& d) {
  double c[3];
  for (int k = 0; k < 3; ++k) c[k] = clamp(clamp(in[k] + double(d.brightness)) * (d.contrast_first ? d.contrast : 1.0));
  const double value = std::max({c[0], c[1], c[2]}), range = value - std::min({c[0], c[1], c[2]});
  double hue = 0;
  if (range > 0)
    hue = value == c[0] ? (c[1] - c[2]) / range : value == c[1] ? 2 + (c[2] - c[0]) / range : 4 + (c[0] - c[1]) / range;
  hue = std::fmod(hue + d.hue + 12, 6);
  const double chroma = value > 0 ? value * std::min(1.0, range / value * d.saturation) : 0;
  const double x = chroma * (1 - std::fabs(std::fmod(hue, 2) - 1));
  const double table[6][3] = {{chroma, x, 0}, {x, chroma, 0}, {0, chroma, x},
                              {0, x, chroma}, {x, 0, chroma}, {chroma, 0, x}};
  for (int k = 0; k < 3; ++k)
    out[k] = clamp((table[int(hue) % 6][k] + value - chroma) * (d.contrast_first ? 1.0 : d.contrast));
}

}  // namespace

int main() {
  dgseg::test::Random random{7};
  for (int64_t pixels : {1, 3, 15, 16, 17, 64, 1000}) {
    for (int round = 0; round < 200; ++round) {
      Distortion d;
      if (random.below(2)) d.brightness = float(random.symmetric(300));
      if (random.below(2)) d.contrast = float(random.uniform() * 3);
      if (random.below(2)) d.saturation = float(random.uniform() * 3);
      if (random.below(2)) d.hue = float(random.symmetric(3));
      d.contrast_first = random.below(2);
      std::vector<uint8_t> in(3 * pixels), out(3 * pixels, 77);
      const int levels = random.below(2) ? 256 : 3;  // few levels: grey pixels and equal maxima
      for (uint8_t& v : in) v = uint8_t(random.below(levels) * (255 / (levels - 1)));
      DGSEG_PICK(distort)(in.data(), out.data(), pixels, d);
      for (int64_t p = 0; p < pixels; ++p) {
        const uint8_t pixel[3] = {in[p], in[pixels + p], in[2 * pixels + p]};
        double want[3];
        expected(pixel, want, d);
        for (int c = 0; c < 3; ++c)
          CHECK(std::fabs(out[c * pixels + p] - want[c]) <= 0.51, "pixel %d,%d,%d channel %d: %d, not %f", pixel[0],
                pixel[1], pixel[2], c, out[c * pixels + p], want[c]);
      }
    }
  }
}
