// What lies between the scene and the camera, and what falls on it: cover, darkness and lamps, mirrors, scattering,
// streaks and flakes. Everything works on the finished drawing and its depth.
#pragma once
#include "canvas.h"
#include "style.h"

namespace dgseg {
namespace {

constexpr float kSkyFar = 300.0f;

// Screen sizes are stated for a view of 512 x 256 and grow with it.
inline float screen_unit(const Canvas& canvas) {
  return most(float(canvas.width), 2.0f * float(canvas.height)) / 512.0f;
}

inline void lie_snow(Canvas& canvas, const Style& style, uint32_t seed) {
  const float unit_ = screen_unit(canvas);
  const Colour white = Colour{0.93f, 0.95f, 0.98f} * style.ambient;
  for (int y = 0; y < canvas.height; ++y)
    for (int x = 0; x < canvas.width; ++x) {
      const int64_t i = int64_t(y) * canvas.width + x;
      if (canvas.up[i] == 0) continue;
      const float patch = noise2(float(x) / (9.0f * unit_), float(y) / (4.0f * unit_), seed);
      const float cover =
          smooth(0.35f, 0.75f, float(canvas.up[i]) * (1.0f / 255.0f) * (0.3f + style.snow) + 0.25f * patch);
      const Colour c =
          blend({canvas.red[i], canvas.green[i], canvas.blue[i]}, white, cover * (0.5f + 0.48f * style.snow));
      canvas.red[i] = c.r;
      canvas.green[i] = c.g;
      canvas.blue[i] = c.b;
    }
}

// Night takes the daylight away; the car's own beams, street lamps and other cars' lamps give some back.
inline void fall_dark(Canvas& canvas, const Style& style) {
  const float step = 1.0f / canvas.camera.focal, dark = style.dark;
  const Lamp* lamps[8];
  int count = 0;
  for (int l = 0; l < canvas.lamp_count && count < 8; ++l)
    if (canvas.lamps[l].reach > 0) lamps[count++] = &canvas.lamps[l];
  for (int y = 0; y < canvas.height; ++y) {
    const float dy = (float(y) + 0.5f - canvas.camera.horizon) * step;
    for (int x = 0; x < canvas.width; ++x) {
      const int64_t i = int64_t(y) * canvas.width + x;
      const float glow = float(canvas.glow[i]) * (1.0f / 255.0f);
      if (canvas.nearness[i] == 0) continue;
      const float z = 1.0f / canvas.nearness[i], dx = (float(x) + 0.5f - canvas.camera.centre_x) * step;
      const float px = dx * z, py = dy * z, aside = px / (1.8f + 0.22f * z), a2 = aside * aside;
      float beam = 1.0f / ((1.0f + z * z * 0.0035f) * (1.0f + a2 * a2));
      beam *= 0.35f + 0.65f * smooth(-1.6f, 0.4f, py);
      Colour light = Colour{0.12f, 0.125f, 0.145f} + Colour{0.80f, 0.78f, 0.70f} * beam;
      for (int l = 0; l < count; ++l) {
        const Lamp& lamp = *lamps[l];
        const float lx = px - lamp.at.x, ly = py - lamp.at.y, lz = z - lamp.at.z;
        const float far = (lx * lx + ly * ly + lz * lz) / (lamp.reach * lamp.reach);
        light = light + lamp.colour * (0.75f / (1.0f + 2.5f * far * far + far));
      }
      light = blend({1, 1, 1}, light, dark);
      light = blend(light, {1, 1, 1}, glow);
      canvas.red[i] *= light.r;
      canvas.green[i] *= light.g;
      canvas.blue[i] *= light.b;
    }
  }
}

// A wet road mirrors what stands on it: below the foot of the nearest thing up the column, upside down.
inline void mirror(Canvas& canvas, const Style& style, uint32_t seed) {
  const float unit_ = screen_unit(canvas);
  for (int x = 0; x < canvas.width; ++x) {
    int foot = 0;
    for (int y = 0; y < canvas.height; ++y) {
      const int64_t i = int64_t(y) * canvas.width + x;
      if (canvas.label[i] != kRoad && canvas.label[i] != kSidewalk) {
        foot = y;
        continue;
      }
      const float wobble = noise(float(x) / (5.0f * unit_), float(y) / (2.0f * unit_), seed);
      const float puddle = 0.55f + 0.45f * noise(float(x) / (40.0f * unit_), float(y) / (9.0f * unit_), seed + 1);
      int row = 2 * foot - y + int(wobble * 3.0f * unit_), column = x + int(wobble * 1.7f * unit_);
      row = row < 0 ? 0 : row > y ? y : row;
      column = column < 0 ? 0 : column >= canvas.width ? canvas.width - 1 : column;
      const int64_t from = int64_t(row) * canvas.width + column;
      const float grazing = 1.0f / (1.0f + 0.006f / (canvas.nearness[i] * canvas.nearness[i] + 1e-6f));
      const float share = style.rain * puddle * (0.62f - 0.22f * grazing);
      const float keep = (1.0f - share) * (1.0f - 0.3f * style.rain);  // what is wet is darker
      canvas.red[i] = canvas.red[i] * keep + canvas.red[from] * share;
      canvas.green[i] = canvas.green[i] * keep + canvas.green[from] * share;
      canvas.blue[i] = canvas.blue[i] * keep + canvas.blue[from] * share;
    }
  }
}

inline void scatter(Canvas& canvas, const Style& style) {
  for (int64_t i = 0; i < canvas.pixels(); ++i) {
    const float z = canvas.nearness[i] > 0 ? least(1.0f / canvas.nearness[i], kSkyFar) : kSkyFar;
    const float kept = decay(style.fog * z);
    canvas.red[i] = style.haze.r + (canvas.red[i] - style.haze.r) * kept;
    canvas.green[i] = style.haze.g + (canvas.green[i] - style.haze.g) * kept;
    canvas.blue[i] = style.haze.b + (canvas.blue[i] - style.haze.b) * kept;
  }
}

inline void dazzle(Canvas& canvas, const Style& style) {
  for (int l = 0; l < canvas.lamp_count; ++l) {
    const Lamp& lamp = canvas.lamps[l];
    const float x0 = canvas.camera.centre_x + canvas.camera.focal * lamp.at.x / lamp.at.z;
    const float y0 = canvas.camera.horizon + canvas.camera.focal * lamp.at.y / lamp.at.z;
    const float radius = canvas.camera.focal * lamp.glare / lamp.at.z + 1.5f * screen_unit(canvas);
    if (!within(x0, -radius, float(canvas.width) + radius) || !within(y0, -radius, float(canvas.height) + radius))
      continue;
    // Something nearer hides it.
    const int cx = int(clamp(x0, 0, float(canvas.width - 1))), cy = int(clamp(y0, 0, float(canvas.height - 1)));
    if (canvas.nearness[int64_t(cy) * canvas.width + cx] * lamp.at.z > 1.25f) continue;
    const int left = int(clamp(x0 - radius, 0, float(canvas.width))),
              top = int(clamp(y0 - radius, 0, float(canvas.height)));
    const int right = int(clamp(x0 + radius + 1, 0, float(canvas.width)));
    const int bottom = int(clamp(y0 + radius + 1, 0, float(canvas.height)));
    const float kept = decay(style.fog * lamp.at.z);
    for (int y = top; y < bottom; ++y)
      for (int x = left; x < right; ++x) {
        const float u = (float(x) + 0.5f - x0) / radius, v = (float(y) + 0.5f - y0) / radius, r = u * u + v * v;
        if (r >= 1) continue;
        const float shine = (1.0f - r) * (1.0f - r) * (0.35f + 0.12f / (r + 0.08f)) * kept;
        const int64_t i = int64_t(y) * canvas.width + x;
        canvas.red[i] += lamp.colour.r * shine;
        canvas.green[i] += lamp.colour.g * shine;
        canvas.blue[i] += lamp.colour.b * shine;
      }
  }
}

inline void lighten(Canvas& canvas, int x, int y, float to, float share) {
  if (x < 0 || y < 0 || x >= canvas.width || y >= canvas.height) return;
  const int64_t i = int64_t(y) * canvas.width + x;
  canvas.red[i] += (to - canvas.red[i]) * share;
  canvas.green[i] += (to - canvas.green[i]) * share;
  canvas.blue[i] += (to - canvas.blue[i]) * share;
}

inline void rain_streaks(Canvas& canvas, const Style& style, Random random) {
  const float unit_ = screen_unit(canvas), wind = random.between(-0.25f, 0.25f);
  const int count = int(float(canvas.pixels()) / (unit_ * unit_) * 0.006f * style.rain);
  const float brightness = luma(style.ambient) * 0.95f;
  for (int n = 0; n < count; ++n) {
    const float x = random.between(-20, float(canvas.width) + 20), y = random.between(-30, float(canvas.height));
    const float length = random.between(5.0f, 22.0f) * unit_, share = random.between(0.08f, 0.34f);
    for (int k = 0; k < int(length); ++k)
      lighten(canvas, floor_int(x + wind * float(k)), floor_int(y) + k, brightness, share);
  }
}

inline void snow_flakes(Canvas& canvas, const Style& style, Random random) {
  const float unit_ = screen_unit(canvas);
  const int count = int(float(canvas.pixels()) / (unit_ * unit_) * 0.006f * style.snow);
  for (int n = 0; n < count; ++n) {
    const float x = random.between(0, float(canvas.width)), y = random.between(0, float(canvas.height));
    const float near = random.uniform(), radius = (0.6f + 2.2f * near * near * near * near) * unit_;
    const float share = random.between(0.45f, 0.9f) * (1.0f - 0.45f * near);
    for (int py = floor_int(y - radius); py <= floor_int(y + radius); ++py)
      for (int px = floor_int(x - radius); px <= floor_int(x + radius); ++px) {
        const float u = (float(px) + 0.5f - x) / radius, v = (float(py) + 0.5f - y) / radius, r = u * u + v * v;
        if (r < 1) lighten(canvas, px, py, 0.96f, share * (1.0f - r * 0.7f));
      }
  }
}

inline void weather(Canvas& canvas, const Style& style, uint64_t key) {
  Random random(key, 1);
  const uint32_t cover = random.bits(), ripple = random.bits();
  if (style.snow > 0) lie_snow(canvas, style, cover);
  if (style.dark > 0) fall_dark(canvas, style);
  if (style.rain > 0) mirror(canvas, style, ripple);
  if (style.fog > 0) scatter(canvas, style);
  if (canvas.lamp_count > 0) dazzle(canvas, style);
  if (style.rain > 0) rain_streaks(canvas, style, Random(key, 2));
  if (style.snow > 0.5f) snow_flakes(canvas, style, Random(key, 3));
}

}  // namespace
}  // namespace dgseg
