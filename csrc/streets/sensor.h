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
  const int width = canvas.width;
  Scratch<float> xs(width), smooth_x(width), ragged_x(width), smooth_y(width), ragged_y(width);
  for (int x = 0; x < width; ++x) xs[x] = float(x);
  for (int y = 0; y < canvas.height; ++y) {
    const float v = float(y) * broad, fine = float(y) * 0.3f;
    noise_row(xs.get(), broad, 1, v, seed, width, smooth_x.get());
    noise_row(xs.get(), 0.3f, 1, fine, seed + 2, width, ragged_x.get());
    noise_row(xs.get(), broad, 1, v, seed + 1, width, smooth_y.get());
    noise_row(xs.get(), 0.3f, 1, fine, seed + 3, width, ragged_y.get());
    for (int x = 0; x < width; ++x) {
      const int64_t i = int64_t(y) * width + x;
      const float dx = 1.5f * smooth_x[x] + 0.4f * ragged_x[x], dy = 1.1f * smooth_y[x] + 0.4f * ragged_y[x];
      column[i] = clamp(float(x) + pixels * dx, 0, float(width - 1));
      row[i] = clamp(float(y) + pixels * dy, 0, float(canvas.height - 1));
    }
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
    const float* __restrict row = plane + y * width;
    float* __restrict out = spare + y * width;
    const auto mixed = [&](float left, float centre, float right) { return centre * middle + (left + right) * side; };
    out[0] = mixed(row[0], row[0], row[width > 1]);
    for (int64_t x = 1; x + 1 < width; ++x) out[x] = mixed(row[x - 1], row[x], row[x + 1]);
    if (width > 1) out[width - 1] = mixed(row[width - 2], row[width - 1], row[width - 1]);
  }
  for (int64_t y = 0; y < height; ++y) {
    const float* row = spare + y * width;
    const float* above = spare + (y > 0 ? y - 1 : 0) * width;
    const float* below = spare + (y + 1 < height ? y + 1 : y) * width;
    float* __restrict out = plane + y * width;
    for (int64_t x = 0; x < width; ++x) out[x] = row[x] * middle + (above[x] + below[x]) * side;
  }
}

inline uint8_t quantised(float v) { return uint8_t(int(clamp(v, 0, 1) * 255.0f + 0.5f)); }

// Vignette, saturation, contrast and noise of a row at height v of the picture, -1 to 1.
inline void grade_row(const float* __restrict reds, const float* __restrict greens, const float* __restrict blues,
                      int width, float v, Colour gain, const Style& style, float amount, uint32_t seed,
                      uint8_t* __restrict red, uint8_t* __restrict green, uint8_t* __restrict blue) {
  const float saturation = style.saturation, contrast = style.contrast, vignette = style.vignette;
  const float darker = 1.0f - style.dark * 0.5f, lifted = style.dark * style.contrast;
  for (int x = 0; x < width; ++x) {
    const float u = 2.0f * (float(x) + 0.5f) / float(width) - 1.0f;
    const float shade = 1.0f - vignette * 0.5f * (u * u + v * v);
    Colour c = Colour{reds[x], greens[x], blues[x]} * gain * shade;
    const float grey = luma(c);
    c = blend({grey, grey, grey}, c, saturation);
    c = (c + Colour{-0.45f, -0.45f, -0.45f}) * contrast + Colour{0.45f, 0.45f, 0.45f} * darker +
        Colour{0.225f, 0.225f, 0.225f} * lifted;
    const uint32_t a = mix32(uint32_t(x) + seed), b = mix32(a + 0x9e3779b9u);
    const float shared = float(int((a & 511) + (a >> 9 & 511)) - 511);
    const float own_red = float(int(a >> 18 & 511) - 256);
    const float own_green = float(int(b & 511) - 256), own_blue = float(int(b >> 9 & 511) - 256);
    red[x] = quantised(c.r + amount * (0.6f * shared + own_red));
    green[x] = quantised(c.g + amount * (0.6f * shared + own_green));
    blue[x] = quantised(c.b + amount * (0.6f * shared + own_blue));
  }
}

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
  const int width = canvas.width;
  for (int y = 0; y < canvas.height; ++y) {
    const int64_t at = int64_t(y) * width;
    const float v = 2.0f * (float(y) + 0.5f) / float(canvas.height) - 1.0f;
    grade_row(planes[0] + at, planes[1] + at, planes[2] + at, width, v, gain, style, amount, uint32_t(at) + seed,
              image + at, image + count + at, image + 2 * count + at);
  }
}

}  // namespace
}  // namespace dgseg
