// What a pixel's own probability says: its focal loss and the slope. Anonymous: see isa.h.
#pragma once
#include "../common/logit_blocks.h"

namespace dgseg {
namespace {

// u ^ gamma for u in [0, 1]; 0 ^ 0 = 1.
template <class T>
DGSEG_INLINE Vf<T> power(Vf<T> u, T gamma) {
  if (gamma == T(1)) return u;
  if (gamma == T(0)) return splat(T(1)) + (u - u);  // a NaN stays one
  const Vf<T> positive = u > T(1e-30) ? u : splat(T(1e-30));
  const Vf<T> result = exponential<T>(gamma * logarithm(positive));
  return u > T(1e-30) ? result : u;
}

// (1 - p)^gamma * -log p
template <class T>
DGSEG_INLINE Vf<T> focal_loss(Vf<T> p, Vf<T> cross_entropy, T gamma) {
  return power<T>(T(1) - p, gamma) * cross_entropy;
}

// p * d(focal_loss)/dp = -(1 - p)^gamma * (1 + gamma * p * -log p / (1 - p)); the quotient tends to 1 with p.
template <class T>
DGSEG_INLINE Vf<T> focal_slope(Vf<T> p, T gamma) {
  const Vf<T> rest = T(1) - p;
  const Vf<T> quotient = p < T(1) ? -logarithm(p) / rest : splat(T(1));
  return -power<T>(rest, gamma) * (T(1) + gamma * p * quotient);
}

}  // namespace
}  // namespace dgseg
