// A tile: the features of some pixels of one image, packed for the matrix product, and the way back.
//
// Planes of an NCHW tensor are often a power of two apart: walking all planes pixel by pixel would use one cache set.
// A tile therefore reads a long run of pixels from one plane after the other; only then does the product start.
// Pixels in no band are dropped on the way in and become zeros on the way out.
//
// Layout: panels of two vectors of pixels, [panel][channel][2 * Lanes<T>::n].
#pragma once
#include <cstring>
#include <type_traits>
#include <utility>

#include "../common/scratch.h"
#include "kernel.h"
#include "multiply.h"

namespace dgseg::DGSEG_ISA {
namespace {

template <class T, bool high, int... I>
DGSEG_INLINE typename Lanes<T>::f interleave(typename Lanes<T>::f a, typename Lanes<T>::f b,
                                             std::integer_sequence<int, I...>) {
  constexpr int n = Lanes<T>::n;
  return __builtin_shufflevector(a, b, (I / 2 + (high ? n / 2 : 0) + (I & 1) * n)...);
}

// n x n values. Interleaving the first half of the rows with the second rotates the bits of (row, column) by one.
template <class T>
DGSEG_INLINE void transpose(typename Lanes<T>::f (&rows)[Lanes<T>::n]) {
  constexpr int n = Lanes<T>::n;
  using Lane = std::make_integer_sequence<int, n>;
  for (int bit = 1; bit < n; bit *= 2) {
    typename Lanes<T>::f next[n];
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = interleave<T, false>(rows[i], rows[i + n / 2], Lane{});
      next[2 * i + 1] = interleave<T, true>(rows[i], rows[i + n / 2], Lane{});
    }
    for (int i = 0; i < n; ++i) rows[i] = next[i];
  }
}

#if defined(__AVX512F__)
// Lanes outside the mask are not read.
DGSEG_INLINE __m512 load_lanes(const float* from, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, from); }
DGSEG_INLINE __m512 load_lanes(const BFloat16* from, __mmask16 lanes) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from)), 16));
}
DGSEG_INLINE __m512 load_lanes(const Half* from, __mmask16 lanes) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, from));
}
#endif

template <class T>
class Tile {
  static constexpr int n = Lanes<T>::n;
  static constexpr int64_t kAhead = 4;  // planes

 public:
  // About 256 KB, so that a tile and the packed bank stay in a second-level cache.
  static int64_t capacity(int64_t channels) {
    const int64_t pixels = 65536 / channels / 64 * 64;
    return pixels < 64 ? 64 : pixels > 512 ? 512 : pixels;
  }

  Tile(int64_t channels, int64_t width, int64_t longest_range)
      : channels_(channels),
        width_(width),
        capacity_(capacity(channels)),
        panel_size_(channels * kPanel<T> + n),  // one vector more: panels start in different cache sets
        panels_(capacity_ / kPanel<T> * panel_size_),
        squares_(capacity_),
        row_(capacity_ + 16),
        spread_(longest_range + 16),
        pixel_major_(n * round_up(channels, n)),
        offsets_(capacity_),
        pieces_(capacity_ > longest_range / 16 + 1 ? capacity_ : longest_range / 16 + 1) {}

  T* panel(int64_t index) const { return panels_.get() + index * panel_size_; }
  const T* squares(int64_t index) const { return squares_.get() + index * kPanel<T>; }  // |f|^2 per pixel of a panel

  // pixels[0..count) increase; a pixel is row * width + column.
  template <class S>
  void load_pixels(const S* image, const FeatureStrides& strides, const int64_t* pixels, int64_t count) {
    locate(strides, pixels, count);
    std::memset(squares_.get(), 0, size_t(capacity_) * sizeof(T));
    if (strides.channel == 1 && strides.column != 1)
      load_pixel_major(image, count);
    else
      load_planes(image, strides.channel, count);
  }

  // Writes every pixel of [begin, end): those of the tile, and zeros. The tile's pixels lie in that range.
  template <class S>
  void store_pixels(S* image, const FeatureStrides& strides, const int64_t* pixels, int64_t count, int64_t begin,
                    int64_t end) {
    if (strides.channel == 1 && strides.column != 1) {
      locate(strides, pixels, count);
      store_pixel_major(image, strides, pixels, count, begin, end);
    } else {
      store_planes(image, strides, pixels, count, begin, end);
    }
  }

 private:
  struct Piece {  // up to 16 neighbouring elements of which some are wanted
    int64_t offset;
    int32_t packed;
    uint32_t lanes;
  };

  void locate(const FeatureStrides& strides, const int64_t* pixels, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      offsets_[i] = pixels[i] / width_ * strides.row + pixels[i] % width_ * strides.column;
  }

  T* half_panel(int64_t vector) const { return panel(vector / 2) + vector % 2 * n; }

  // ---- channels are planes -------------------------------------------------------------------------------------

  template <class S>
  void load_planes(const S* image, int64_t channel_stride, int64_t count) {
    const int64_t vectors = (count + n - 1) / n;
    bool run = true;
    for (int64_t i = 1; i < count; ++i) run &= offsets_[i] == offsets_[0] + i;
    const bool in_place = run && count % n == 0;
    const int64_t pieces = run ? 0 : cut_into_pieces(count);
    std::memset(row_.get(), 0, size_t(capacity_ + 16) * sizeof(T));
    for (int64_t channel = 0; channel < channels_; ++channel) {
      const S* plane = image + channel * channel_stride;
      const T* row = row_.get();
      if (channel + kAhead < channels_) prefetch(plane + kAhead * channel_stride, run, pieces, count);
      if (!run)
        gather(plane, pieces, count);
      else if (std::is_same_v<S, T> && in_place)
        row = reinterpret_cast<const T*>(plane + offsets_[0]);
      else
        load_row(row_.get(), plane + offsets_[0], 1, count);
      for (int64_t vector = 0; vector < vectors; ++vector) {
        const auto values = load(row + vector * n);
        T* sum = squares_.get() + vector * n;
        store(sum, load(sum) + values * values);
        store(half_panel(vector) + channel * kPanel<T>, values);
      }
    }
  }

  // A run is too short for the processor to see it coming.
  template <class S>
  void prefetch(const S* plane, bool run, int64_t pieces, int64_t count) const {
    constexpr int64_t line = 64 / int64_t(sizeof(S));
    if (run)
      for (int64_t i = 0; i < count; i += line) __builtin_prefetch(plane + offsets_[0] + i);
    for (int64_t i = 0; i < pieces; ++i) __builtin_prefetch(plane + pieces_[i].offset);
  }

  int64_t cut_into_pieces(int64_t count) {
    int64_t pieces = 0;
    for (int64_t i = 0; i < count;) {
      Piece& piece = pieces_[pieces++];
      piece = {offsets_[i], int32_t(i), 1};
      for (++i; i < count && offsets_[i] > offsets_[i - 1] && offsets_[i] - piece.offset < 16; ++i)
        piece.lanes |= 1u << (offsets_[i] - piece.offset);
    }
    return pieces;
  }

  template <class S>
  void gather(const S* plane, [[maybe_unused]] int64_t pieces, [[maybe_unused]] int64_t count) {
    T* row = row_.get();
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
      for (int64_t i = 0; i < pieces; ++i) {
        const Piece piece = pieces_[i];
        const auto lanes = __mmask16(piece.lanes);
        _mm512_storeu_ps(row + piece.packed, _mm512_maskz_compress_ps(lanes, load_lanes(plane + piece.offset, lanes)));
      }
      return;
    }
#endif
    for (int64_t i = 0; i < count; ++i) row[i] = to_float(plane[offsets_[i]]);
  }

  template <class S>
  void store_planes(S* image, const FeatureStrides& strides, const int64_t* pixels, int64_t count, int64_t begin,
                    int64_t end) {
    const int64_t vectors = (count + n - 1) / n;
    const bool full = count == end - begin;
    const bool one_run = strides.row == strides.column * width_ || end - begin <= width_ - begin % width_;
    const bool in_place = std::is_same_v<S, T> && full && one_run && strides.column == 1 && count % n == 0;
    if (!full) plan_spread(pixels, count, begin, end);
    for (int64_t channel = 0; channel < channels_; ++channel) {
      S* plane = image + channel * strides.channel;
      T* row = in_place ? reinterpret_cast<T*>(plane + offset_of(strides, begin)) : row_.get();
      for (int64_t vector = 0; vector < vectors; ++vector)
        store(row + vector * n, load(half_panel(vector) + channel * kPanel<T>));
      if (in_place) continue;
      if (!full) {
        spread(pixels, count, begin, end);
        row = spread_.get();
      }
      for (int64_t at = begin; at < end;) {
        const int64_t row_end = (at / width_ + 1) * width_, stop = one_run || row_end > end ? end : row_end;
        store_row(plane + offset_of(strides, at), strides.column, row + (at - begin), stop - at);
        at = stop;
      }
    }
  }

  int64_t offset_of(const FeatureStrides& strides, int64_t pixel) const {
    return pixel / width_ * strides.row + pixel % width_ * strides.column;
  }

  // Where the packed pixels go, 16 places of [begin, end) at a time; places of none stay zero for all channels.
  void plan_spread(const int64_t* pixels, int64_t count, int64_t begin, int64_t end) {
    std::memset(spread_.get(), 0, size_t(end - begin) * sizeof(T));
    int64_t i = 0;
    for (int64_t block = 0; block * 16 < end - begin; ++block) {
      Piece& piece = pieces_[block];
      piece = {begin + block * 16, int32_t(i), 0};
      for (; i < count && pixels[i] < piece.offset + 16; ++i) piece.lanes |= 1u << (pixels[i] - piece.offset);
    }
  }

  void spread(const int64_t* pixels, int64_t count, int64_t begin, [[maybe_unused]] int64_t end) {
    const T* row = row_.get();
    T* places = spread_.get();
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
      for (int64_t block = 0; block * 16 < end - begin; ++block) {
        const Piece& piece = pieces_[block];
        _mm512_storeu_ps(places + block * 16,
                         _mm512_maskz_expand_ps(__mmask16(piece.lanes), _mm512_loadu_ps(row + piece.packed)));
      }
      return;
    }
#endif
    for (int64_t i = 0; i < count; ++i) places[pixels[i] - begin] = row[i];
  }

  // ---- channels are neighbours (channels_last) -----------------------------------------------------------------

  template <class S>
  void load_pixel_major(const S* image, int64_t count) {
    const int64_t pitch = round_up(channels_, n);
    std::memset(pixel_major_.get(), 0, size_t(n * pitch) * sizeof(T));
    for (int64_t first = 0; first < count; first += n) {
      for (int64_t i = 0; i < n; ++i) {
        T* to = pixel_major_.get() + i * pitch;
        if (first + i < count)
          load_row(to, image + offsets_[first + i], 1, channels_);
        else
          std::memset(to, 0, size_t(channels_) * sizeof(T));
      }
      T* to = half_panel(first / n);
      typename Lanes<T>::f squares{}, values[n];
      for (int64_t channel = 0; channel < channels_; channel += n) {
        for (int i = 0; i < n; ++i) values[i] = load(pixel_major_.get() + i * pitch + channel);
        transpose<T>(values);
        for (int i = 0; i < n; ++i) squares += values[i] * values[i];
        const int64_t rest = channels_ - channel < n ? channels_ - channel : n;
        for (int i = 0; i < rest; ++i) store(to + (channel + i) * kPanel<T>, values[i]);
      }
      store(squares_.get() + first, squares);
    }
  }

  template <class S>
  void store_pixel_major(S* image, const FeatureStrides& strides, const int64_t* pixels, int64_t count, int64_t begin,
                         int64_t end) {
    const int64_t pitch = round_up(channels_, n);
    int64_t at = begin;
    for (int64_t first = 0; first < count; first += n) {
      const T* from = half_panel(first / n);
      typename Lanes<T>::f values[n];
      for (int64_t channel = 0; channel < channels_; channel += n) {
        for (int i = 0; i < n; ++i)
          values[i] = channel + i < channels_ ? load(from + (channel + i) * kPanel<T>) : typename Lanes<T>::f{};
        transpose<T>(values);
        for (int i = 0; i < n; ++i) store(pixel_major_.get() + i * pitch + channel, values[i]);
      }
      for (int64_t i = first; i < count && i < first + n; ++i) {
        for (; at < pixels[i]; ++at) std::memset(image + offset_of(strides, at), 0, size_t(channels_) * sizeof(S));
        store_row(image + offsets_[i], 1, pixel_major_.get() + (i - first) * pitch, channels_);
        ++at;
      }
    }
    for (; at < end; ++at) std::memset(image + offset_of(strides, at), 0, size_t(channels_) * sizeof(S));
  }

  int64_t channels_, width_, capacity_, panel_size_;
  Scratch<T> panels_, squares_, row_, spread_, pixel_major_;
  Scratch<int64_t> offsets_;
  Scratch<Piece> pieces_;
};

}  // namespace
}  // namespace dgseg::DGSEG_ISA
