// Scores of many images, and the draw p_i ∝ exp(h_i / τ) under score updates.
//
// A tree of fan-out 16 over the scores h. Every node holds three sums over its images: the weights and the scores of
// those seen, and the count of those not yet seen. An update writes one score and computes the sums above it anew, each
// from its sixteen children in a fixed order. So sums do not drift, and the whole tree is a function of (scores, rate,
// offset): what is restored from these draws and updates bit by bit like the original.
//
// Weights of single images are not stored: a leaf's sixteen are computed when they are needed, by an exponential that
// gives the same bits on every machine. Bytes per image: 8 (score) + 20/15 (sums) = 9.4.
//
// Images not yet seen share the mean score of those seen. It moves with every update, but it is one number: the group
// weighs count · exp(mean / τ), a draw chooses between the group and the tree, then a member by the counts.
//
// Range: a weight is exp((h - offset) · rate) with rate = 1/(τ · scale). The offset is the largest score at the last
// rebuild, which follows whenever the total leaves [1e-50, 1e50]. An image whose weight is 0 has p < 1e-250.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace dgseg {

// exp within 2 ulp from +, -, * alone. Below -708 it is 0, above 709 infinity. Needs -ffp-contract=off.
inline double portable_exp(double x) {
  constexpr double kMagic = 0x1.8p52;  // adding it rounds to an integer, which then stands in the low bits
  constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  const double clamped = x < -708 ? -708 : x > 709 ? 709 : x;
  const double shifted = clamped * 0x1.71547652b82fep0 + kMagic;
  const double k = shifted - kMagic;
  const double r = (clamped - k * kLn2High) - k * kLn2Low;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1;
  p = p * r + 1;
  uint64_t bits, exponent;
  std::memcpy(&bits, &p, 8);
  std::memcpy(&exponent, &shifted, 8);
  bits += exponent << 52;
  std::memcpy(&p, &bits, 8);
  return x < -708 ? 0 : x > 709 ? std::numeric_limits<double>::infinity() : p;
}

class HardnessTable {
 public:
  static constexpr int64_t kFan = 16;
  static constexpr int64_t kLargest = int64_t(1) << 32;  // counts are 32 bits wide
  static constexpr double kUnseen = std::numeric_limits<double>::quiet_NaN();

  HardnessTable(int64_t size, double beta, double temperature)
      : size_(size), beta_(beta), temperature_(temperature), scores_(size_t(size), kUnseen) {
    for (int64_t nodes = size; nodes > 1 || levels_.empty();) {
      nodes = (nodes + kFan - 1) / kFan;
      levels_.emplace_back(nodes);
    }
    rebuild();
  }

  int64_t size() const { return size_; }
  int64_t seen() const { return size_ - unseen(); }
  double beta() const { return beta_; }
  double temperature() const { return temperature_; }
  double scale() const { return scale_; }
  double offset() const { return offset_; }
  const std::vector<double>& scores() const { return scores_; }
  // Of the images seen; with none it is without consequence.
  double mean() const { return seen() ? levels_.back().score[0] / double(seen()) : offset_; }

  // Indices and losses are checked by the caller. One image may come several times: in their order.
  void update(const int64_t* indices, const double* losses, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      double& score = scores_[size_t(indices[i])];
      score = std::isnan(score) ? losses[i] : beta_ * score + (1 - beta_) * losses[i];
      int64_t node = indices[i] / kFan;
      sum_leaf(node);
      for (size_t level = 1; level < levels_.size(); ++level) sum_node(level, node /= kFan);
    }
    const double total = seen_weight() + unseen_weight();
    if (!(total > 1e-50 && total < 1e50)) rebuild();
  }

  // From now on scores count by standard deviations of those seen (with fewer than two different ones: by 1). That
  // their mean is not taken off makes no difference to p.
  void standardise() {
    double sum = 0;
    const double centre = mean();
    for (double score : scores_) sum += std::isnan(score) ? 0 : (score - centre) * (score - centre);
    const double deviation = seen() ? std::sqrt(sum / double(seen())) : 0;
    scale_ = deviation > 1e-100 ? deviation : 1;
    rebuild();
  }

  void restore(const double* scores, double scale, double offset) {
    std::copy(scores, scores + size_, scores_.begin());
    scale_ = scale;
    offset_ = offset;
    sum_everything();
  }

  // One image for each uniform number in [0, 1).
  void draw(const double* uniform, int64_t count, int64_t* images) const {
    const double group = unseen_weight(), total = group + seen_weight();
    const uint64_t members = uint64_t(unseen());
    for (int64_t i = 0; i < count; ++i) {
      const double x = uniform[i] * total;
      if (x < group || members == uint64_t(size_)) {
        const auto member = uint64_t(x / group * double(members));
        images[i] = unseen_image(std::min(member, members - 1));
      } else {
        images[i] = seen_image(x - group);
      }
    }
  }

  double probability(int64_t image) const {
    const double score = scores_[size_t(image)];
    return weight(std::isnan(score) ? mean() : score) / (seen_weight() + unseen_weight());
  }

  int64_t bytes() const {
    size_t total = sizeof(*this) + scores_.capacity() * sizeof(double) + levels_.capacity() * sizeof(Level);
    for (const Level& level : levels_)
      total += (level.weight.capacity() + level.score.capacity()) * sizeof(double) +
               level.unseen.capacity() * sizeof(uint32_t);
    return int64_t(total);
  }

 private:
  // Sums of the level's nodes, whose number is filled up to a whole parent with zeros.
  struct Level {
    explicit Level(int64_t nodes) : nodes(nodes), weight(padded(nodes)), score(padded(nodes)), unseen(padded(nodes)) {}
    static size_t padded(int64_t nodes) { return size_t((nodes + kFan - 1) / kFan * kFan); }
    int64_t nodes;
    std::vector<double> weight, score;
    std::vector<uint32_t> unseen;
  };

  int64_t unseen() const { return int64_t(unseen_); }
  double seen_weight() const { return levels_.back().weight[0]; }
  double unseen_weight() const { return unseen() ? double(unseen()) * weight(mean()) : 0; }
  double weight(double score) const { return portable_exp((score - offset_) * rate_); }

  // The sum of sixteen in an order that leaves room for vectors.
  template <class T>
  static T sum(const T* x) {
    T s[4];
    for (int i = 0; i < 4; ++i) s[i] = (x[i] + x[4 + i]) + (x[8 + i] + x[12 + i]);
    return (s[0] + s[1]) + (s[2] + s[3]);
  }

  // Weights of a leaf's images, 0 for those unseen and past the end.
  void leaf_weights(int64_t leaf, double* weights) const {
    const int64_t first = leaf * kFan, count = std::min(kFan, size_ - first);
    double scores[kFan];
    for (int64_t i = 0; i < kFan; ++i) scores[i] = i < count ? scores_[size_t(first + i)] : kUnseen;
    for (int64_t i = 0; i < kFan; ++i) {
      const double w = weight(scores[i]);
      weights[i] = scores[i] == scores[i] ? w : 0;
    }
  }

  void sum_leaf(int64_t leaf) {
    Level& level = levels_[0];
    const int64_t first = leaf * kFan, count = std::min(kFan, size_ - first);
    double weights[kFan], scores[kFan] = {};
    uint32_t unseen = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double score = scores_[size_t(first + i)];
      unseen += std::isnan(score);
      scores[i] = std::isnan(score) ? 0 : score;
    }
    leaf_weights(leaf, weights);
    level.weight[size_t(leaf)] = sum(weights);
    level.score[size_t(leaf)] = sum(scores);
    unseen_ = unseen_ - level.unseen[size_t(leaf)] + unseen;
    level.unseen[size_t(leaf)] = unseen;
  }

  void sum_node(size_t level, int64_t node) {
    const Level& children = levels_[level - 1];
    const size_t first = size_t(node * kFan);
    levels_[level].weight[size_t(node)] = sum(&children.weight[first]);
    levels_[level].score[size_t(node)] = sum(&children.score[first]);
    levels_[level].unseen[size_t(node)] = sum(&children.unseen[first]);
  }

  void sum_everything() {
    rate_ = 1 / (temperature_ * scale_);
    for (int64_t leaf = 0; leaf < levels_[0].nodes; ++leaf) sum_leaf(leaf);
    for (size_t level = 1; level < levels_.size(); ++level)
      for (int64_t node = 0; node < levels_[level].nodes; ++node) sum_node(level, node);
  }

  void rebuild() {
    double largest = -std::numeric_limits<double>::infinity();
    for (double score : scores_) largest = score > largest ? score : largest;
    offset_ = std::isfinite(largest) ? largest : 0;
    sum_everything();
  }

  int64_t unseen_image(uint64_t member) const {
    int64_t node = 0;
    for (size_t level = levels_.size() - 1; level > 0; --level) {
      const uint32_t* unseen = levels_[level - 1].unseen.data();
      for (node *= kFan; member >= unseen[node]; ++node) member -= unseen[node];
    }
    int64_t image = node * kFan;
    for (;; ++image)
      if (std::isnan(scores_[size_t(image)]) && member-- == 0) return image;
  }

  int64_t seen_image(double x) const {
    int64_t node = 0;
    for (size_t level = levels_.size() - 1; level > 0; --level)
      node = node * kFan + child(&levels_[level - 1].weight[size_t(node * kFan)], x);
    double weights[kFan];
    leaf_weights(node, weights);
    return node * kFan + child(weights, x);
  }

  // The child in whose stretch x lies; x is then relative to that stretch. Where rounding leads past the end, the last
  // child with any weight.
  static int64_t child(const double* weights, double& x) {
    int64_t last = 0;
    for (int64_t i = 0; i < kFan; ++i) {
      if (x < weights[i]) return i;
      x -= weights[i];
      if (weights[i] > 0) last = i;
    }
    x = weights[last];
    return last;
  }

  int64_t size_;
  double beta_, temperature_, scale_ = 1, offset_ = 0, rate_ = 1;
  uint64_t unseen_ = 0;
  std::vector<double> scores_;
  std::vector<Level> levels_;
};

}  // namespace dgseg
