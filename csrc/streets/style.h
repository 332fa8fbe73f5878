// What makes a domain: layout, palette, light, weather, sensor. One Style per scene, drawn from its domain's ranges.
#pragma once
#include "kernel.h"
#include "maths.h"
#include "random.h"

namespace dgseg {
namespace {

enum class Layout { city, suburb, country };

struct Style {
  Layout layout;
  float traffic = 1, people = 1;  // densities
  // camera: metres, multiples of the base side, share of the base side above the horizon
  float camera_height, focal, horizon;
  // palette
  Colour asphalt, pavement, grass, leaf, sky_top, sky_low;
  Colour plaster[6];
  float brick = 0.3f;    // share of brick facades
  float texture = 0.1f;  // amplitude of everything's noise
  float grain = 1;       // its frequency
  // light
  Colour sun, ambient;
  V3 to_sun;
  float clouds = 0.5f;
  // weather
  float fog = 0;  // per metre
  Colour haze{0.8f, 0.82f, 0.85f};
  float rain = 0, snow = 0, dark = 0;  // 0..1
  // rendering and sensor
  Colour tint{1, 1, 1};
  float exposure = 1, contrast = 1, saturation = 1, blur = 0.3f, noise = 0.01f, vignette = 0;
};

inline Colour vary(Colour c, float amount, Random& random) {
  const float all = random.between(-amount, amount);
  return {clamp(c.r + all + random.between(-amount, amount) * 0.4f, 0.02f, 1),
          clamp(c.g + all + random.between(-amount, amount) * 0.4f, 0.02f, 1),
          clamp(c.b + all + random.between(-amount, amount) * 0.4f, 0.02f, 1)};
}

inline V3 direction(float x, float y, float z) { return V3{x, y, z} * (1.0f / __builtin_sqrtf(x * x + y * y + z * z)); }

inline Layout layout_of(float city, float suburb, Random& random) {
  const float v = random.uniform();
  return v < city ? Layout::city : v < city + suburb ? Layout::suburb : Layout::country;
}

// What weather does to light: no sun, no colour in the sky.
inline void overcast(Style& s, float brightness, Random& random) {
  s.sun = {0.04f, 0.04f, 0.04f};
  s.ambient = Colour{0.98f, 1.0f, 1.04f} * brightness;
  s.sky_top = vary({0.66f, 0.69f, 0.73f}, 0.05f, random);
  s.sky_low = vary({0.78f, 0.80f, 0.82f}, 0.04f, random);
  s.clouds = 0.9f;
}

// A video game: clean surfaces, saturated; mostly blue sky and warm sun, sometimes clouds.
inline Style game_style(Random& random) {
  Style s;
  s.layout = layout_of(0.55f, 0.30f, random);
  s.camera_height = random.between(1.3f, 1.7f);
  s.focal = random.between(0.82f, 0.95f);
  s.horizon = random.between(0.39f, 0.46f);
  const float road = random.between(0.34f, 0.46f);
  s.asphalt = vary({road, road, road * 1.01f}, 0.02f, random);
  s.pavement = vary({0.62f, 0.58f, 0.53f}, 0.07f, random);
  s.grass = vary({0.46f, 0.52f, 0.22f}, 0.07f, random);
  s.leaf = vary({0.24f, 0.42f, 0.15f}, 0.07f, random);
  s.sky_top = vary({0.30f, 0.52f, 0.88f}, 0.07f, random);
  s.sky_low = vary({0.72f, 0.84f, 0.96f}, 0.05f, random);
  const Colour plaster[6] = {{0.78f, 0.68f, 0.52f}, {0.70f, 0.48f, 0.36f}, {0.82f, 0.78f, 0.70f},
                             {0.56f, 0.52f, 0.50f}, {0.62f, 0.66f, 0.70f}, {0.80f, 0.60f, 0.44f}};
  for (int i = 0; i < 6; ++i) s.plaster[i] = vary(plaster[i], 0.07f, random);
  s.texture = random.between(0.05f, 0.09f);
  s.sun = {0.62f, 0.58f, 0.50f};
  s.ambient = {0.56f, 0.58f, 0.62f};
  const float sun_ahead = random.between(-0.8f, 0.6f), sun_up = random.between(0.6f, 1.2f),
              sun_right = random.between(-1.0f, 1.0f);
  s.to_sun = direction(sun_right, sun_up, sun_ahead);
  s.clouds = random.between(0.0f, 0.8f);
  s.fog = random.between(0.0008f, 0.002f);
  s.contrast = random.between(1.0f, 1.15f);
  s.saturation = random.between(0.95f, 1.2f);
  s.exposure = random.between(0.78f, 1.12f);
  s.blur = random.between(0.1f, 0.5f);
  s.noise = random.between(0.004f, 0.014f);
  if (random.chance(0.3f)) overcast(s, random.between(0.75f, 0.95f), random);
  return s;
}

// A real camera on a real street: greyer, noisier, higher, softer; what all targets share.
inline Style real_style(Random& random) {
  Style s = game_style(random);
  s.clouds = random.between(0.2f, 0.8f);
  s.camera_height = random.between(1.2f, 2.1f);
  s.focal = random.between(0.90f, 1.12f);
  s.horizon = random.between(0.37f, 0.45f);
  const float road = random.between(0.38f, 0.55f);
  s.asphalt = vary({road, road * 0.99f, road * 0.98f}, 0.03f, random);
  s.pavement = vary({0.56f, 0.53f, 0.52f}, 0.08f, random);
  s.grass = vary({0.42f, 0.44f, 0.26f}, 0.08f, random);
  s.leaf = vary({0.22f, 0.32f, 0.17f}, 0.07f, random);
  s.sky_top = vary({0.62f, 0.72f, 0.84f}, 0.10f, random);
  s.sky_low = vary({0.86f, 0.88f, 0.90f}, 0.06f, random);
  const Colour plaster[6] = {{0.66f, 0.62f, 0.56f}, {0.55f, 0.40f, 0.34f}, {0.74f, 0.72f, 0.68f},
                             {0.48f, 0.46f, 0.45f}, {0.70f, 0.62f, 0.46f}, {0.58f, 0.60f, 0.64f}};
  for (int i = 0; i < 6; ++i) s.plaster[i] = vary(plaster[i], 0.09f, random);
  s.brick = 0.45f;
  s.texture = random.between(0.08f, 0.14f);
  s.grain = random.between(1.2f, 1.9f);
  const float sun = random.between(0.15f, 0.55f);
  s.sun = {sun, sun * 0.97f, sun * 0.90f};
  s.ambient = Colour{0.60f, 0.61f, 0.64f} * (1.12f - 0.5f * sun);
  s.fog = random.between(0.0005f, 0.003f);
  s.haze = {0.84f, 0.87f, 0.90f};
  s.contrast = random.between(0.85f, 1.1f);
  s.saturation = random.between(0.6f, 0.95f);
  s.exposure = random.between(0.92f, 1.18f);
  s.tint = {random.between(0.95f, 1.04f), random.between(0.97f, 1.02f), random.between(0.94f, 1.04f)};
  s.blur = random.between(0.3f, 0.7f);
  s.noise = random.between(0.010f, 0.020f);
  s.vignette = random.between(0.0f, 0.25f);
  return s;
}

// A text-to-image model's idea of the game's scenes: any palette, any time, weather as a painter would add it (flat
// veils, uniform darkness), not as physics does.
inline Style generated_style(Random& random) {
  Style s = game_style(random);
  Colour* colours[] = {&s.asphalt, &s.pavement, &s.grass, &s.leaf, &s.sky_top, &s.sky_low};
  for (Colour* c : colours) *c = vary(*c, 0.10f, random);
  for (Colour& c : s.plaster) c = vary(c, 0.2f, random);
  s.texture = random.between(0.06f, 0.22f);
  s.grain = random.between(0.6f, 1.8f);
  s.tint = {random.between(0.86f, 1.10f), random.between(0.9f, 1.06f), random.between(0.84f, 1.12f)};
  s.contrast = random.between(0.75f, 1.35f);
  s.saturation = random.between(0.4f, 1.4f);
  s.blur = random.between(0.3f, 0.9f);
  s.noise = random.between(0.003f, 0.015f);
  s.brick = random.between(0.1f, 0.6f);
  const int weather = random.below(6);
  if (weather == 0) {  // veil
    overcast(s, 0.95f, random);
    s.fog = random.between(0.01f, 0.025f);
    s.haze = vary({0.78f, 0.80f, 0.84f}, 0.08f, random);
    s.contrast *= 0.85f;
  } else if (weather == 1) {  // drizzle: streaks, hardly a mirror
    overcast(s, 0.7f, random);
    s.rain = random.between(0.15f, 0.4f);
  } else if (weather == 2) {  // a dusting
    overcast(s, 0.9f, random);
    s.snow = random.between(0.25f, 0.55f);
  } else if (weather == 3) {  // day for night: a blue filter, the lamps hardly matter
    overcast(s, 0.6f, random);
    s.dark = random.between(0.25f, 0.55f);
    s.tint = {0.75f, 0.85f, 1.15f};
  }
  return s;
}

inline Style style_of(StreetsDomain domain, Random& random) {
  if (domain == StreetsDomain::game) return game_style(random);
  if (domain == StreetsDomain::generated) return generated_style(random);
  Style s = real_style(random);
  switch (domain) {
    case StreetsDomain::city:
      s.layout = layout_of(0.95f, 0.05f, random);
      s.traffic = 1.15f;
      s.people = 1.5f;
      break;
    case StreetsDomain::country:
      s.layout = layout_of(0, 0.2f, random);
      s.traffic = 0.9f;
      s.people = 0.8f;
      s.camera_height = random.between(1.7f, 2.4f);
      break;
    case StreetsDomain::suburb:
      s.layout = layout_of(0.05f, 0.9f, random);
      s.camera_height = random.between(1.0f, 1.4f);
      break;
    case StreetsDomain::fog:
      overcast(s, random.between(0.80f, 0.95f), random);
      s.fog = random.between(0.012f, 0.036f);
      s.haze = vary({0.74f, 0.76f, 0.78f}, 0.06f, random);
      s.saturation *= 0.8f;
      break;
    case StreetsDomain::rain:
      overcast(s, random.between(0.58f, 0.75f), random);
      s.sky_top = s.sky_top * 0.75f;
      s.sky_low = s.sky_low * 0.8f;
      s.rain = random.between(0.45f, 0.85f);
      s.fog = random.between(0.005f, 0.012f);
      s.haze = vary({0.58f, 0.61f, 0.65f}, 0.05f, random);
      s.blur += 0.25f;
      break;
    case StreetsDomain::snow:
      overcast(s, random.between(0.75f, 0.9f), random);
      s.sky_top = vary({0.82f, 0.84f, 0.87f}, 0.05f, random);
      s.sky_low = vary({0.88f, 0.89f, 0.91f}, 0.03f, random);
      s.snow = random.between(0.5f, 0.95f);
      s.fog = random.between(0.005f, 0.012f);
      s.haze = vary({0.86f, 0.87f, 0.89f}, 0.03f, random);
      s.saturation *= 0.75f;
      break;
    case StreetsDomain::night:
      s.dark = random.between(0.88f, 1.0f);
      s.sun = {0, 0, 0};
      s.ambient = {1, 1, 1};
      s.sky_top = Colour{0.04f, 0.045f, 0.075f} * random.between(0.5f, 1.5f);
      s.sky_low = Colour{0.15f, 0.12f, 0.11f} * random.between(0.5f, 1.5f);
      s.fog = 0.002f;
      s.haze = {0.05f, 0.05f, 0.06f};
      s.noise = random.between(0.02f, 0.04f);
      s.tint = {1.1f, 0.98f, 0.82f};
      break;
    case StreetsDomain::dusk: {
      s.dark = random.between(0.35f, 0.6f);
      s.sun = Colour{0.75f, 0.42f, 0.22f} * random.between(0.5f, 1.0f);
      const float sun_ahead = random.between(-0.4f, 0.8f), sun_right = random.between(-1.0f, 1.0f);
      s.to_sun = direction(sun_right, 0.18f, sun_ahead);
      s.ambient = {0.55f, 0.52f, 0.66f};
      s.sky_top = vary({0.34f, 0.38f, 0.58f}, 0.05f, random);
      s.sky_low = vary({0.95f, 0.62f, 0.42f}, 0.06f, random);
      s.fog = random.between(0.004f, 0.012f);
      s.haze = {0.62f, 0.48f, 0.44f};
      s.noise += 0.01f;
      break;
    }
    default: break;
  }
  return s;
}

}  // namespace
}  // namespace dgseg
