// The flat ground with its strips (carriageway, pavement, verge), and the sky.
#pragma once
#include "brush.h"

namespace dgseg {
namespace {

// Lateral metres count from the line between the two directions, to the right; it bends as curve·z².
struct Street {
  int lanes[2];      // to the left (oncoming) and right (ours)
  float lane;        // metres
  float parking[2];  // width of the parking strip, 0 = none
  float pavement[2], verge[2];
  float curve;
  float crossing;  // where the side street's near edge lies; beyond sight: none
  bool zebra, solid, edge_lines, worn;
  bool rails;  // along the innermost lane of the left side
  Colour paint;
  uint32_t seed;

  static constexpr float kCrossingWide = 9.0f;

  float centre(float z) const { return curve * z * z; }
  float edge(int side) const { return float(lanes[side]) * lane + parking[side]; }
  float line(int side) const { return edge(side) + pavement[side] + verge[side]; }
  bool at_crossing(float z) const { return within(z, crossing, crossing + kCrossingWide); }
  V3 point(float lateral, float z) const { return {lateral + centre(z), 0, z}; }
  V3 heading(float z) const { return direction(2.0f * curve * z, 0, 1.0f); }
};

inline Street street(const Style& style, Random& random) {
  Street s{};
  const bool city = style.layout == Layout::city, country = style.layout == Layout::country;
  s.lanes[0] = s.lanes[1] = city && random.chance(0.55f) ? 2 : 1;
  s.lane = random.between(3.0f, country ? 3.9f : 3.5f);
  for (int side = 0; side < 2; ++side) {
    s.parking[side] = !country && random.chance(city ? 0.5f : 0.4f) ? 2.2f : 0.0f;
    s.pavement[side] = country ? (random.chance(0.25f) ? 1.8f : 0.0f) : random.between(1.8f, city ? 4.8f : 3.0f);
    s.verge[side] = country ? random.between(3.0f, 9.0f)
                    : city  ? (random.chance(0.25f) ? random.between(1.5f, 4.0f) : 0.0f)
                            : random.between(2.0f, 6.0f);
  }
  s.curve = random.between(-1.0f, 1.0f) * (country ? 0.0022f : 0.0008f);
  s.crossing = random.chance(country ? 0.2f : 0.55f) ? random.between(14.0f, 45.0f) : 1000.0f;
  s.zebra = random.chance(0.7f);
  s.solid = random.chance(0.3f);
  s.edge_lines = country ? random.chance(0.8f) : random.chance(0.25f);
  s.worn = random.chance(0.4f);
  s.rails = random.chance(country ? 0.15f : 0.2f);
  s.paint = random.chance(0.15f) ? Colour{0.85f, 0.68f, 0.20f} : Colour{0.86f, 0.86f, 0.84f};
  s.seed = random.bits();
  return s;
}

inline bool painted(const Street& s, float lateral, float z) {
  const float dash = fraction(z * 0.125f);
  if (within(z, s.crossing - 3.8f, s.crossing - 0.8f) && s.zebra) return fraction(lateral * 1.0f) < 0.5f;
  if (within(z, s.crossing - 5.2f, s.crossing - 4.7f) && lateral > 0) return true;
  if (s.at_crossing(z)) return false;
  if (size(lateral) < 0.09f) return s.solid || dash < 0.45f;
  const int side = lateral > 0;
  const float from_middle = size(lateral), driving = float(s.lanes[side]) * s.lane;
  if (s.lanes[side] > 1 && size(from_middle - s.lane) < 0.08f) return dash < 0.35f;
  if (s.parking[side] > 0 && size(from_middle - driving) < 0.06f) return fraction(z * 0.5f) < 0.5f;
  return s.edge_lines && size(from_middle - driving + 0.22f) < 0.08f;
}

// Noise of a row of the ground, which lies at one depth.
struct GroundNoise {
  float edge;         // of the buildings' shadow
  float broad, fine;  // of the surface, at one place
};

// Which label, what colour and how much snow stays, at one place on the ground.
inline void ground_at(const Brush& brush, const Street& s, float lateral, float z, float shadow_edge,
                      const GroundNoise& noises, Texel& texel) {
  const Style& style = brush.style;
  const int side = lateral > 0;
  const float beyond = size(lateral) - s.edge(side);
  const bool carriageway = beyond < 0 || s.at_crossing(z);
  texel.label = carriageway ? kRoad : beyond < s.pavement[side] ? kSidewalk : kTerrain;
  if (!brush.canvas.shaded) return;
  texel.up = 1;
  const float fade = 1.0f / (1.0f + z * 0.04f);
  Colour light = style.ambient + style.sun * style.to_sun.y;
  if (style.sun.r > 0.1f) {
    const float across = style.to_sun.x < 0 ? lateral : -lateral;
    if (across < shadow_edge + 1.5f * noises.edge) light = style.ambient;
  }
  const float broad = noises.broad, fine = fade * noises.fine;
  if (texel.label == kRoad) {
    const float tread = size(fraction((lateral + 100.0f * s.lane) / s.lane * 2.0f) - 0.5f);  // two tracks to a lane
    texel.colour = style.asphalt * (1.0f + style.texture * (0.8f * broad + 0.9f * fine) - 0.05f * tread);
    texel.up = 0.35f + 1.1f * tread + 0.3f * broad;
    if (beyond < 0 && painted(s, lateral, z)) {
      const float wear = s.worn ? 0.65f + 0.35f * noise(lateral * 3.0f, z * 2.0f, s.seed + 3) : 0.95f;
      texel.colour = blend(texel.colour, s.paint, wear);
    }
    if (s.rails && lateral < 0 && size(size(lateral + s.lane * 0.5f) - 0.72f) < 0.06f + z * 0.0012f)
      texel.colour = {0.22f, 0.21f, 0.21f}, texel.up = 0.1f;
  } else if (texel.label == kSidewalk) {
    texel.colour = style.pavement * (1.0f + style.texture * (0.6f * broad + 0.7f * fine));
    const float slab = 1.2f;
    if (fraction(lateral / slab) < 0.07f || fraction(z / slab) < 0.07f)
      texel.colour = texel.colour * (1.0f - 0.18f * fade);
    if (beyond < 0.25f) texel.colour = blend(texel.colour, {0.78f, 0.77f, 0.75f}, 0.7f);  // the kerb
  } else {
    const float tuft = noise(lateral * 4.0f, z * 2.0f, s.seed + 4);
    texel.colour = style.grass * (0.95f + 0.16f * broad + 0.22f * fade * tuft + style.texture * fine);
    if (broad > 0.35f) texel.colour = blend(texel.colour, {0.50f, 0.42f, 0.30f}, 0.5f);  // bare earth
  }
  texel.colour = texel.colour * light;
}

inline void ground(Brush& brush, const Street& s, float shadow_edge) {
  Canvas& canvas = brush.canvas;
  const Camera& camera = canvas.camera;
  const float step = 1.0f / camera.focal, grain = brush.style.grain;
  Scratch<float> lateral(canvas.width), broad(canvas.width), fine(canvas.width);
  for (int y = 0; y < canvas.height; ++y) {
    const float down = (float(y) + 0.5f - camera.horizon) * step;
    if (down <= 0) continue;
    const float z = least(camera.height / down, 2000.0f), near = 1.0f / z, bend = s.centre(least(z, 220.0f));
    for (int x = 0; x < canvas.width; ++x)
      lateral[x] = camera.x + (float(x) + 0.5f - camera.centre_x) * step * z - bend;
    GroundNoise noises{};
    if (canvas.shaded) {
      noises.edge = noise(z * 0.12f, 0.3f, s.seed);
      noise2_row(lateral.get(), 1, 0.5f, z * 0.25f, s.seed + 1, canvas.width, broad.get());
      noise_row(lateral.get(), 7.0f, grain, z * 3.5f * grain, s.seed + 2, canvas.width, fine.get());
    }
    for (int x = 0; x < canvas.width; ++x) {
      if (canvas.shaded) noises.broad = broad[x], noises.fine = fine[x];
      Texel texel;
      ground_at(brush, s, lateral[x], z, shadow_edge, noises, texel);
      canvas.set(int64_t(y) * canvas.width + x, texel, near);
    }
  }
}

inline void sky(Brush& brush, uint32_t seed) {
  Canvas& canvas = brush.canvas;
  const Style& style = brush.style;
  const float step = 1.0f / canvas.camera.focal;
  Scratch<float> across(canvas.width), clouds(canvas.width);
  for (int y = 0; y < canvas.height; ++y) {
    const float up = (canvas.camera.horizon - float(y) - 0.5f) * step;
    if (up < 0) continue;
    const Colour base = blend(style.sky_low, style.sky_top, smooth(0, 0.5f, up));
    if (canvas.shaded) {
      const float far = 1.0f / (up + 0.15f);
      for (int x = 0; x < canvas.width; ++x) across[x] = (float(x) + 0.5f - canvas.camera.centre_x) * step;
      noise2_row(across.get(), far, 1.2f, far * 1.6f, seed, canvas.width, clouds.get());
    }
    for (int x = 0; x < canvas.width; ++x) {
      Texel texel;
      texel.label = kSky;
      if (canvas.shaded) {
        const float cover = smooth(0.9f - 1.6f * style.clouds, 1.3f - 1.2f * style.clouds, clouds[x]) * 0.75f;
        texel.colour = blend(base, blend(style.sky_low, Colour{1, 1, 1} * luma(style.sky_low), 0.8f), cover);
        texel.glow = 1;
      }
      canvas.set(int64_t(y) * canvas.width + x, texel, 0);
    }
  }
}

}  // namespace
}  // namespace dgseg
