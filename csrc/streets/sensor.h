// From display values to bytes: the displacement of generated images, then optics, grading, noise.
#pragma once
#include "weather.h"

namespace dgseg {
namespace {

// Where a generated image has what the plan asks for: displaced by a smooth field of about `pixels`, with ragged edges
// on top. [y, x] -> source column and row.
inline void stray_field(const Canvas& canvas, float pixels, uint64_t key, float* column, float* row) {
  const float broad = 1.0f / (42.0f * screen_unit(canvas));
  const uint32_t seed = uint32_t(key);
  for (int y = 0; y < canvas.height; ++y)
    for (int x = 0; x < canvas.width; ++x) {
      const int64_t i = int64_t(y) * canvas.width + x;
      const float u = float(x) * broad, v = float(y) * broad;
      const float dx = 1.5f * noise(u, v, seed) + 0.4f * noise(float(x) * 0.3f, float(y) * 0.3f, seed + 2);
      const float dy = 1.1f * noise(u, v, seed + 1) + 0.4f * noise(float(x) * 0.3f, float(y) * 0.3f, seed + 3);
      column[i] = clamp(float(x) + pixels * dx, 0, float(canvas.width - 1));
      row[i] = clamp(float(y) + pixels * dy, 0, float(canvas.height - 1));
    }
}

// Bilinear.
inline void sample(const Canvas& canvas, const float* column, const float* row, const float* from, float* to) {
  for (int64_t k = 0; k < canvas.pixels(); ++k) {
    const int i = int(column[k]), j = int(row[k]), right = i + (i + 1 < canvas.width),
              below = j + (j + 1 < canvas.height);
    const float a = column[k] - float(i), b = row[k] - float(j);
    const float* top = from + int64_t(j) * canvas.width;
    const float* bottom = from + int64_t(below) * canvas.width;
    const float upper = top[i] + a * (top[right] - top[i]), lower = bottom[i] + a * (bottom[right] - bottom[i]);
    to[k] = upper + b * (lower - upper);
  }
}

// Three taps across and down; `share` goes to the neighbours.
inline void soften(const Canvas& canvas, float share, float* plane, float* spare) {
  const int64_t width = canvas.width, height = canvas.height;
  const float side = share * 0.5f, middle = 1.0f - share;
  for (int64_t y = 0; y < height; ++y) {
    const float* row = plane + y * width;
    float* out = spare + y * width;
    for (int64_t x = 0; x < width; ++x)
      out[x] = row[x] * middle + (row[x > 0 ? x - 1 : 0] + row[x + 1 < width ? x + 1 : x]) * side;
  }
  for (int64_t y = 0; y < height; ++y) {
    const float* row = spare + y * width;
    const float* above = spare + (y > 0 ? y - 1 : 0) * width;
    const float* below = spare + (y + 1 < height ? y + 1 : y) * width;
    for (int64_t x = 0; x < width; ++x) plane[y * width + x] = row[x] * middle + (above[x] + below[x]) * side;
  }
}

inline uint8_t quantised(float v) { return uint8_t(int(clamp(v, 0, 1) * 255.0f + 0.5f)); }

inline void expose(Canvas& canvas, const Style& style, float misalignment, uint64_t key, uint8_t* image) {
  const int64_t count = canvas.pixels();
  Scratch<float> spare(count);
  float* planes[3] = {canvas.red.get(), canvas.green.get(), canvas.blue.get()};
  if (misalignment > 0) {
    Scratch<float> column(count), row(count);
    stray_field(canvas, misalignment, mix64(key + 1), column.get(), row.get());
    for (float* plane : planes) {
      sample(canvas, column.get(), row.get(), plane, spare.get());
      for (int64_t i = 0; i < count; ++i) plane[i] = spare[i];
    }
  }
  for (float* plane : planes) soften(canvas, least(style.blur, 0.9f) * 0.6f, plane, spare.get());
  const uint32_t seed = uint32_t(mix64(key + 2));
  const Colour gain = style.tint * style.exposure;
  const float amount = style.noise * 2.45f * (1.0f / 512.0f);  // two uniforms of 9 bits each: standard deviation 0.41
  for (int y = 0; y < canvas.height; ++y) {
    const float v = 2.0f * (float(y) + 0.5f) / float(canvas.height) - 1.0f;
    for (int x = 0; x < canvas.width; ++x) {
      const int64_t i = int64_t(y) * canvas.width + x;
      const float u = 2.0f * (float(x) + 0.5f) / float(canvas.width) - 1.0f;
      const float shade = 1.0f - style.vignette * 0.5f * (u * u + v * v);
      Colour c = Colour{planes[0][i], planes[1][i], planes[2][i]} * gain * shade;
      const float grey = luma(c);
      c = blend({grey, grey, grey}, c, style.saturation);
      c = (c + Colour{-0.45f, -0.45f, -0.45f}) * style.contrast +
          Colour{0.45f, 0.45f, 0.45f} * (1.0f - style.dark * 0.5f) +
          Colour{0.225f, 0.225f, 0.225f} * (style.dark * style.contrast);
      const uint32_t a = mix32(uint32_t(i) + seed), b = mix32(a + 0x9e3779b9u);
      const float shared = float(int((a & 511) + (a >> 9 & 511)) - 511);
      const float own[3] = {float(int(a >> 18 & 511) - 256), float(int(b & 511) - 256), float(int(b >> 9 & 511) - 256)};
      image[i] = quantised(c.r + amount * (0.6f * shared + own[0]));
      image[count + i] = quantised(c.g + amount * (0.6f * shared + own[1]));
      image[2 * count + i] = quantised(c.b + amount * (0.6f * shared + own[2]));
    }
  }
}

}  // namespace
}  // namespace dgseg
