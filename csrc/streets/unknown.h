// Objects of no training class: lumps, crates, cones, animals of no kind, in patterns that nothing else wears.
#pragma once
#include "brush.h"

namespace dgseg {
namespace {

struct Novelty {
  int shape;    // 0 lump, 1 crate, 2 cone, 3 star, 4 beast
  int pattern;  // 0 blotches, 1 stripes, 2 checks, 3 plain
  float wide, tall;
  Colour first, second;
  uint32_t seed;
};

inline Novelty novelty(Random& random) {
  Novelty n;
  n.shape = random.below(5);
  n.pattern = random.below(4);
  n.wide = random.between(0.6f, 2.2f);
  n.tall = random.between(0.6f, 1.8f);
  n.first = vary({0.5f, 0.5f, 0.5f}, 0.45f, random);
  n.second = {random.uniform(), random.uniform(), random.uniform()};
  n.seed = random.bits();
  return n;
}

inline void novel(Brush& brush, V3 foot, const Novelty& n) {
  const Colour light = brush.light();
  stand(brush, foot, n.wide, n.tall, [&](float x, float y, Texel& texel) {
    const float u = 2.0f * x / n.wide, v = 2.0f * y / n.tall - 1.0f;
    const float ragged = noise(u * 2.5f, v * 2.5f, n.seed);
    bool there = true;
    if (n.shape == 0) there = u * u + v * v + 0.4f * ragged < 0.9f;
    if (n.shape == 2) there = size(u) < 0.15f + 0.42f * (1.0f - v);
    if (n.shape == 3) there = size(u) * size(v) < 0.08f && u * u + v * v < 1.0f;
    if (n.shape == 4)
      there = in_ellipse(u, v, 0, 0.1f, 0.7f, 0.35f) || in_ellipse(u, v, 0.75f, 0.6f, 0.24f, 0.3f) ||
              (v < 0 && (size(size(u) - 0.5f) < 0.09f || size(size(u) - 0.25f) < 0.07f));
    if (!there) return false;
    texel.label = kUnknown;
    if (!brush.canvas.shaded) return true;
    const bool second = n.pattern == 0   ? noise(u * 5.0f, v * 5.0f, n.seed + 1) > 0
                        : n.pattern == 1 ? fraction((u + v) * 2.5f) < 0.5f
                        : n.pattern == 2 ? (fraction(u * 2.0f) < 0.5f) != (fraction(v * 2.0f) < 0.5f)
                                         : false;
    texel.colour = (second ? n.second : n.first) * light * (0.85f + 0.2f * v);
    texel.up = v > 0.6f;
    return true;
  });
}

}  // namespace
}  // namespace dgseg
