// What scenes are drawn on: a depth-tested rectangle in space is the only primitive, and what it looks like (and where
// it has no substance) is up to the function that it is drawn with.
#pragma once
#include "../common/scratch.h"
#include "labels.h"
#include "maths.h"
#include "random.h"

namespace dgseg {
namespace {

struct Camera {
  float focal, centre_x, horizon;  // pixels
  float height, x;                 // metres; it looks along z
};

// What a pixel of a rectangle is made of.
struct Texel {
  Colour colour{0, 0, 0};
  float glow = 0;  // how much of the colour is its own light
  uint8_t label = 0;
  float up = 0;        // faces the sky, 0..1: snow lies here
  bool clear = false;  // belongs to the object, but one sees through it: the gaps of a fence
};

struct Lamp {
  V3 at;  // relative to the camera, y downwards
  Colour colour;
  float reach;  // metres over which it lights its surroundings; 0: only glare
  float glare;  // metres of its halo
};

// Other colours for the things of some classes; see shift.h.
struct Paints {
  static constexpr int kLabels = 19;
  bool changed[kLabels];
  uint8_t turn[kLabels];
  Colour strength[kLabels];

  Colour on(uint8_t label, Colour c) const {
    if (label >= kLabels || !changed[label]) return c;
    const Colour turned = turn[label] == 0 ? c : turn[label] == 1 ? Colour{c.g, c.b, c.r} : Colour{c.b, c.r, c.g};
    return turned * strength[label];
  }
};

class Canvas {
 public:
  static constexpr float kNear = 0.8f;
  static constexpr int kMostLamps = 64;

  const int height, width;
  const bool shaded;  // false: labels and depth alone
  Camera camera{};
  const Paints* paints = nullptr;    // null: every thing in its own colours
  Scratch<float> nearness;           // 1 / depth, 0 = infinitely far
  Scratch<float> red, green, blue;   // display values, 1 = white
  Scratch<uint8_t> label, glow, up;  // 0..255
  Lamp lamps[kMostLamps];
  int lamp_count = 0;

  Canvas(int height, int width, bool shaded)
      : height(height),
        width(width),
        shaded(shaded),
        nearness(pixels()),
        red(shaded ? pixels() : 1),
        green(shaded ? pixels() : 1),
        blue(shaded ? pixels() : 1),
        label(pixels()),
        glow(shaded ? pixels() : 1),
        up(shaded ? pixels() : 1) {}

  int64_t pixels() const { return int64_t(height) * width; }
  float pixel_at(float z) const { return z / camera.focal; }  // metres that one pixel spans at depth z

  void set(int64_t i, const Texel& texel, float near) {
    nearness[i] = near;
    label[i] = texel.label;
    if (!shaded || texel.clear) return;
    const Colour colour = paints ? paints->on(texel.label, texel.colour) : texel.colour;
    red[i] = colour.r;
    green[i] = colour.g;
    blue[i] = colour.b;
    glow[i] = uint8_t(int(clamp(texel.glow, 0, 1) * 255.0f));
    up[i] = uint8_t(int(clamp(texel.up, 0, 1) * 255.0f));
  }

  // The rectangle origin + s·u + t·v, 0 <= s, t < 1, in world coordinates (x right, y up, z ahead of the camera).
  // With rays r = (dx, dy, 1), z·r = o + s·u + t·v gives
  // 1/z, s/z and t/z as linear functions of the pixel, and each bound as a half-plane: a span per row, no clipping.
  // body(pixel, 1/z, s, t) for every pixel that it covers.
  template <class Body>
  void cover(V3 origin, V3 u, V3 v, const Body& body) {
    const V3 o{origin.x - camera.x, camera.height - origin.y, origin.z};
    u.y = -u.y;
    v.y = -v.y;
    const V3 normal = cross(u, v);
    const float volume = dot(o, normal);
    if (size(volume) < 1e-7f) return;
    const float scale = 1.0f / volume, step = 1.0f / camera.focal;
    const V3 near = normal * scale, along_s = cross(v, o) * scale, along_t = cross(o, u) * scale;
    int first, last;
    rows(o, u, v, first, last);
    // Each half-plane is slope·x + its value at x = 0 of the row, both in pixels.
    const V3 planes[6] = {along_s, near - along_s, along_t, near - along_t, near, near * -1.0f};
    float slope[6], inverse[6];
    for (int p = 0; p < 6; ++p) {
      slope[p] = planes[p].x * step;
      inverse[p] = slope[p] != 0 ? 1.0f / slope[p] : 0.0f;
    }
    const float dx0 = (0.5f - camera.centre_x) * step;
    for (int y = first; y < last; ++y) {
      const float dy = (float(y) + 0.5f - camera.horizon) * step;
      float low = 0, high = float(width);  // x in [low, high)
      bool empty = false;
      for (int p = 0; p < 6; ++p) {
        float start = planes[p].x * dx0 + planes[p].y * dy + planes[p].z;
        start += p == 4 ? -1e-4f : p == 5 ? 1.0f / kNear : 0.0f;
        if (slope[p] > 0)
          low = most(low, -start * inverse[p]);
        else if (slope[p] < 0)
          high = least(high, -start * inverse[p]);
        else
          empty = empty || start < 0;
      }
      if (empty || !(low < high)) continue;
      int x = int(low);
      x += float(x) < low;
      int end = int(high);
      end += float(end) < high;
      const float near_row = near.y * dy + near.z, s_row = along_s.y * dy + along_s.z,
                  t_row = along_t.y * dy + along_t.z;
      for (; x < end; ++x) {
        const float dx = (float(x) + 0.5f - camera.centre_x) * step;
        const float w = near.x * dx + near_row, z = 1.0f / w;
        body(int64_t(y) * width + x, w, (along_s.x * dx + s_row) * z, (along_t.x * dx + t_row) * z);
      }
    }
  }

  // shade(s, t, texel) -> does the object have substance there?
  template <class Shade>
  void rectangle(V3 origin, V3 u, V3 v, const Shade& shade) {
    cover(origin, u, v, [&](int64_t i, float w, float s, float t) {
      if (w <= nearness[i]) return;
      Texel texel;
      if (shade(s, t, texel)) set(i, texel, w);
    });
  }

  // Darkens what lies within a rectangle's ellipse on the ground, and changes nothing else.
  void stain(V3 origin, V3 u, V3 v, float darkness) {
    if (!shaded) return;
    cover(origin, u, v, [&](int64_t i, float w, float s, float t) {
      if (w < nearness[i] * 0.985f) return;
      s = 2.0f * s - 1.0f;
      t = 2.0f * t - 1.0f;
      const float keep = 1.0f - darkness * (1.0f - smooth(0.45f, 1.0f, s * s * s * s + t * t * t * t));
      red[i] *= keep;
      green[i] *= keep;
      blue[i] *= keep;
    });
  }

  void lamp(V3 at, Colour colour, float reach, float glare) {
    if (lamp_count < kMostLamps && at.z > 1.0f)
      lamps[lamp_count++] = {{at.x - camera.x, camera.height - at.y, at.z}, colour, reach, glare};
  }

 private:
  void rows(V3 o, V3 u, V3 v, int& first, int& last) const {
    const V3 corners[4] = {o, o + u, o + v, o + u + v};
    float low = 1e9f, high = -1e9f;
    bool behind = false;
    for (V3 corner : corners) {
      if (corner.z < kNear) {
        behind = true;
        continue;
      }
      const float y = camera.horizon + camera.focal * corner.y / corner.z;
      low = least(low, y);
      high = most(high, y);
    }
    first = behind ? 0 : int(clamp(low - 1.0f, 0, float(height)));
    last = behind ? height : int(clamp(high + 1.0f, 0, float(height)));
  }
};

}  // namespace
}  // namespace dgseg
