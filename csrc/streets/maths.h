// Vectors, colours, and the few functions that libm would otherwise give (its last bits differ between machines).
#pragma once
#include <cstdint>

namespace dgseg {
namespace {

struct V3 {
  float x, y, z;
};
inline V3 operator+(V3 a, V3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline V3 operator-(V3 a, V3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline V3 operator*(V3 a, float k) { return {a.x * k, a.y * k, a.z * k}; }
inline float dot(V3 a, V3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline V3 cross(V3 a, V3 b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }

struct Colour {
  float r, g, b;
};
inline Colour operator+(Colour a, Colour b) { return {a.r + b.r, a.g + b.g, a.b + b.b}; }
inline Colour operator*(Colour a, float k) { return {a.r * k, a.g * k, a.b * k}; }
inline Colour operator*(Colour a, Colour b) { return {a.r * b.r, a.g * b.g, a.b * b.b}; }
inline Colour blend(Colour a, Colour b, float t) { return a + (b + a * -1.0f) * t; }
inline float luma(Colour c) { return 0.3f * c.r + 0.59f * c.g + 0.11f * c.b; }

inline float least(float a, float b) { return a < b ? a : b; }
inline float most(float a, float b) { return a > b ? a : b; }
inline float clamp(float v, float low, float high) { return v < low ? low : v > high ? high : v; }
inline float size(float v) { return v < 0 ? -v : v; }
inline float smooth(float low, float high, float v) {
  const float t = clamp((v - low) / (high - low), 0, 1);
  return t * t * (3.0f - 2.0f * t);
}
inline bool within(float v, float low, float high) { return v >= low && v < high; }
inline float fraction(float v) { return v - float(int(v) - (float(int(v)) > v)); }

// exp(-x) for x >= 0, within 3 % where it matters: scattering needs its shape, not its digits.
inline float decay(float x) {
  float t = 1.0f / (1.0f + x * 0.0625f);
  t = t * t;
  t = t * t;
  t = t * t;
  return t * t;
}

inline bool in_ellipse(float x, float y, float cx, float cy, float rx, float ry) {
  const float u = (x - cx) / rx, v = (y - cy) / ry;
  return u * u + v * v < 1.0f;
}

// Is (x, y) within `radius` of the line from a to b? Limbs and tubes are made of these.
inline bool in_capsule(float x, float y, float ax, float ay, float bx, float by, float radius) {
  const float ux = bx - ax, uy = by - ay, px = x - ax, py = y - ay;
  const float along = clamp((px * ux + py * uy) / (ux * ux + uy * uy + 1e-9f), 0, 1);
  const float dx = px - along * ux, dy = py - along * uy;
  return dx * dx + dy * dy < radius * radius;
}

}  // namespace
}  // namespace dgseg
