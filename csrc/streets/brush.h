// Things are drawn with a Brush: the canvas, the scene's style, and how light falls on a surface.
#pragma once
#include "canvas.h"
#include "style.h"

namespace dgseg {
namespace {

struct Brush {
  Canvas& canvas;
  const Style& style;

  Colour light(V3 normal) const {
    const float facing = most(0, dot(normal, style.to_sun));
    return style.ambient * (0.85f + 0.15f * normal.y) + style.sun * facing;
  }
  // For what stands upright and faces the camera, such as people and trees.
  Colour light() const { return light({style.to_sun.x * 0.6f, 0.45f, -0.65f}); }

  // Finer detail than a pixel would only flicker.
  float rough(float x, float y, float z, uint32_t seed) const {
    const float fade = 1.0f / (1.0f + z * 0.03f);
    return 1.0f + style.texture * fade * 1.6f * noise2(x * style.grain, y * style.grain, seed);
  }
};

// A place on the ground and a heading: what stands there is described in metres ahead, right and up.
struct Place {
  V3 at;
  V3 ahead{0, 0, 1};

  V3 right() const { return {ahead.z, 0, -ahead.x}; }
  V3 point(float forward, float right_of, float up) const {
    return at + ahead * forward + right() * right_of + V3{0, up, 0};
  }
};

// A rectangle that stands upright and faces the camera: s from left to right, t from the ground up, both in metres
// from the middle of its foot.
template <class Shade>
inline void stand(Brush& brush, V3 foot, float wide, float tall, const Shade& shade) {
  brush.canvas.rectangle({foot.x - wide * 0.5f, foot.y, foot.z}, {wide, 0, 0}, {0, tall, 0},
                         [&](float s, float t, Texel& texel) { return shade((s - 0.5f) * wide, t * tall, texel); });
}

}  // namespace
}  // namespace dgseg
