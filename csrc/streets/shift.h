// The same scene shown otherwise, for augmentation: under another look, its things in other paints, and with objects of
// no class pasted where a mask says so. What lies where, and every label and depth outside the mask, stay.
#pragma once
#include "scene.h"

namespace dgseg {
namespace {

enum ShiftStream : uint64_t { kLook = 32, kPaints, kPasted };

// Palette, light, weather and sensor of a picture that a generator would make of the scene.
inline Style restyled(const Style& scene, uint64_t seed) {
  Random random(seed, kLook);
  Style s = generated_style(random);
  s.layout = scene.layout;
  s.traffic = scene.traffic;
  s.people = scene.people;
  s.camera_height = scene.camera_height;
  s.focal = scene.focal;
  s.horizon = scene.horizon;
  return s;
}

// What has a shape of its own (signs, people, vehicles) in colours that its class does not wear: channels change
// places, and strengths.
inline Paints paints(uint64_t seed) {
  Random random(seed, kPaints);
  Paints p;
  for (int label = 0; label < Paints::kLabels; ++label) {
    p.turn[label] = uint8_t(random.below(3));
    const float red = random.between(0.5f, 1.5f), green = random.between(0.5f, 1.5f), blue = random.between(0.5f, 1.5f);
    p.strength[label] = {red, green, blue};
    p.changed[label] = label == kTrafficSign || label >= kPerson;
  }
  return p;
}

// In patterns that unknown.h does not use: who learns from these has not seen those.
inline Colour pasted_colour(int pattern, float u, float v, uint32_t seed, Colour first, Colour second) {
  if (pattern == 0) return blend(first, second, 0.5f + 0.5f * v);                     // from foot to top
  if (pattern == 1) return fraction((u * u + v * v) * 2.2f) < 0.5f ? first : second;  // rings
  if (pattern == 2) {                                                                 // dots
    const float x = fraction(u * 2.0f) - 0.5f, y = fraction(v * 2.0f) - 0.5f;
    return x * x + y * y < 0.09f ? second : first;
  }
  return blend(first, second, unit(lattice(floor_int(u * 2.5f), floor_int(v * 2.5f), seed)));  // patches
}

// mask [height, width]: 0, or the number of an object. It stands on the ground at its lowest row, is lit as the scene
// is, and what the weather does to the scene it will do to it.
inline void paste(Brush& brush, const uint8_t* mask, uint64_t seed) {
  Canvas& canvas = brush.canvas;
  const Camera& camera = canvas.camera;
  struct Extent {
    int top, bottom, left, right;
  };
  Scratch<Extent> extents(256);
  for (int object = 0; object < 256; ++object) extents[object] = {canvas.height, -1, canvas.width, -1};
  for (int y = 0; y < canvas.height; ++y)
    for (int x = 0; x < canvas.width; ++x) {
      Extent& e = extents[mask[int64_t(y) * canvas.width + x]];
      e.top = y < e.top ? y : e.top;
      e.bottom = y;
      e.left = x < e.left ? x : e.left;
      e.right = x > e.right ? x : e.right;
    }
  for (int object = 1; object < 256; ++object) {
    const Extent e = extents[object];
    if (e.bottom < 0) continue;
    Random random(seed, kPasted + uint64_t(object));
    const int pattern = random.below(4);
    const Colour first = vary({0.5f, 0.5f, 0.5f}, 0.45f, random);
    const float red = random.uniform(), green = random.uniform(), blue = random.uniform();
    const Colour second{red, green, blue};
    const uint32_t patches = random.bits();
    // Above the horizon nothing stands on the ground: as far as the ground goes.
    const float below = most(float(e.bottom) + 1.0f - camera.horizon, camera.focal * camera.height / kFar);
    const float z = camera.focal * camera.height / below, metre = camera.focal / z;
    const float wide = float(e.right - e.left + 1), tall = float(e.bottom - e.top + 1);
    const float centre = float(e.left) + 0.5f * wide, x_foot = camera.x + (centre - camera.centre_x) / metre;
    if (canvas.shaded) ground_shadow(brush, {{x_foot, 0, z}, {1, 0, 0}}, wide / metre, wide / metre * 0.4f);
    const Colour light = brush.light();
    for (int y = e.top; y <= e.bottom; ++y)
      for (int x = e.left; x <= e.right; ++x) {
        const int64_t i = int64_t(y) * canvas.width + x;
        if (mask[i] != object) continue;
        const float u = 2.0f * (float(x - e.left) + 0.5f) / wide - 1.0f;
        const float v = 1.0f - 2.0f * (float(y - e.top) + 0.5f) / tall;
        Texel texel;
        texel.label = kUnknown;
        texel.colour = pasted_colour(pattern, u, v, patches, first, second) * light * (0.85f + 0.2f * v);
        texel.up = v > 0.6f;
        canvas.set(i, texel, 1.0f / z);
      }
  }
}

}  // namespace
}  // namespace dgseg
