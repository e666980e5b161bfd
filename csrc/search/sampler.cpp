#include "search/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "json/json_value.h"  // mix64

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && \
    !defined(__SANITIZE_ADDRESS__)
// The portable build would otherwise run the vocabulary-wide loops at SSE2 width.
#define TOOLPRM_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TOOLPRM_WIDE
#endif

namespace toolprm {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr size_t kBlock = 512;

TOOLPRM_WIDE float max_of(const float* values, size_t size) {
  float lanes[16];
  for (float& lane : lanes) lane = kMinusInfinity;
  size_t at = 0;
  for (; at + 16 <= size; at += 16) {
    for (size_t i = 0; i < 16; ++i)
      lanes[i] = values[at + i] > lanes[i] ? values[at + i] : lanes[i];
  }
  float best = kMinusInfinity;
  for (float lane : lanes) best = lane > best ? lane : best;
  for (; at < size; ++at) best = values[at] > best ? values[at] : best;
  return best;
}

// exp(x) for x <= 0 to about 2 units in the last place, in plain arithmetic that the compiler
// widens: 2^n times a polynomial on [-ln2/2, ln2/2] (coefficients of Cephes' expf).
inline float exp_nonpositive(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float n = x * 1.44269504f;
  const float shifted = n + 12582912.0f;  // rounds to the nearest integer
  uint32_t exponent;
  std::memcpy(&exponent, &shifted, 4);
  const float rounded = shifted - 12582912.0f;
  const float r = (x - rounded * 0.693359375f) + rounded * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &p, 4);
  bits += exponent << 23;
  std::memcpy(&p, &bits, 4);
  return p;
}

// Sums of e^(x - max) and (x - max) e^(x - max) over one block, in lanes the compiler widens.
TOOLPRM_WIDE void exp_sums(const float* values, size_t size, float max, float* sum,
                           float* weighted) {
  float sums[16] = {};
  float weights[16] = {};
  size_t at = 0;
  for (; at + 16 <= size; at += 16) {
    for (size_t i = 0; i < 16; ++i) {
      float x = values[at + i] - max;
      x = x < -87.0f ? -87.0f : x;
      const float e = exp_nonpositive(x);
      sums[i] += e;
      weights[i] += x * e;
    }
  }
  for (; at < size; ++at) {
    float x = values[at] - max;
    x = x < -87.0f ? -87.0f : x;
    const float e = exp_nonpositive(x);
    sums[0] += e;
    weights[0] += x * e;
  }
  *sum = 0;
  *weighted = 0;
  for (size_t i = 0; i < 16; ++i) {
    *sum += sums[i];
    *weighted += weights[i];
  }
}

struct Entry {
  float logit;
  int32_t token;
};

// True when `a` comes before `b`: more likely, or as likely and of a lower id.
bool before(const Entry& a, const Entry& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// The k best seen so far; the worst of them on top of a heap.
class Best {
 public:
  explicit Best(size_t k) : k_(k) { heap_.reserve(k); }

  float floor() const { return heap_.size() < k_ ? kMinusInfinity : heap_.front().logit; }

  void offer(float logit, int32_t token) {
    if (heap_.size() < k_) {
      heap_.push_back({logit, token});
      std::push_heap(heap_.begin(), heap_.end(), before);
    } else if (logit > heap_.front().logit) {
      std::pop_heap(heap_.begin(), heap_.end(), before);
      heap_.back() = {logit, token};
      std::push_heap(heap_.begin(), heap_.end(), before);
    }
  }

  const std::vector<Entry>& sorted() {
    std::sort_heap(heap_.begin(), heap_.end(), before);
    return heap_;
  }

 private:
  size_t k_;
  std::vector<Entry> heap_;
};

// Uniform in (0, 1), from 53 bits.
double uniform(uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1.0p-53; }

}  // namespace

void select_top_k(const float* logits, size_t vocabulary, const uint32_t* mask, size_t k,
                  int32_t* tokens, float* logprobs, float* entropy) {
  const float max = max_of(logits, vocabulary);
  double sum = 0;
  double weighted = 0;
  for (size_t at = 0; at < vocabulary; at += kBlock) {
    float block_sum;
    float block_weighted;
    exp_sums(logits + at, std::min(kBlock, vocabulary - at), max, &block_sum, &block_weighted);
    sum += block_sum;
    weighted += block_weighted;
  }
  const double log_sum = std::log(sum);
  *entropy = static_cast<float>(log_sum - weighted / sum);

  Best best(k);
  if (mask == nullptr) {
    for (size_t at = 0; at < vocabulary; at += 64) {
      const size_t size = std::min<size_t>(64, vocabulary - at);
      if (max_of(logits + at, size) <= best.floor()) continue;
      for (size_t i = at; i < at + size; ++i) {
        if (logits[i] > kMinusInfinity) best.offer(logits[i], static_cast<int32_t>(i));
      }
    }
  } else {
    for (size_t word = 0; word * 32 < vocabulary; ++word) {
      for (uint32_t bits = mask[word]; bits != 0; bits &= bits - 1) {
        const size_t i = word * 32 + __builtin_ctz(bits);
        if (i >= vocabulary) break;
        if (logits[i] > best.floor()) best.offer(logits[i], static_cast<int32_t>(i));
      }
    }
  }
  const std::vector<Entry>& sorted = best.sorted();
  for (size_t i = 0; i < k; ++i) {
    const bool filled = i < sorted.size();
    tokens[i] = filled ? sorted[i].token : -1;
    logprobs[i] =
        filled ? static_cast<float>(double{sorted[i].logit} - max - log_sum) : kMinusInfinity;
  }
}

size_t Sampler::candidates(const Distribution& distribution) const {
  size_t size = std::min<size_t>(distribution.tokens.size(), options_.top_k);
  if (options_.temperature == 0) return std::min<size_t>(size, 1);
  if (options_.top_p >= 1 || size == 0) return size;
  const double top = distribution.logprobs[0];
  double total = 0;
  for (size_t i = 0; i < size; ++i) {
    total += std::exp((distribution.logprobs[i] - top) / options_.temperature);
  }
  double taken = 0;
  for (size_t i = 0; i < size; ++i) {
    taken += std::exp((distribution.logprobs[i] - top) / options_.temperature);
    if (taken >= options_.top_p * total) return i + 1;
  }
  return size;
}

void Sampler::draw(const Distribution& distribution, uint64_t path,
                   const std::vector<uint32_t>& draws, std::vector<int32_t>& places) const {
  const size_t size = candidates(distribution);
  places.assign(draws.size(), size == 0 ? -1 : 0);
  if (size <= 1) return;
  const uint64_t key = mix64(path, options_.seed);
  const double temperature = options_.temperature;
  for (size_t i = 0; i < draws.size(); ++i) {
    const uint64_t row = mix64(key, draws[i]);
    double best = -std::numeric_limits<double>::infinity();
    for (size_t place = 0; place < size; ++place) {
      const double logit = distribution.logprobs[place] / temperature;
      // Noise of 53 bits stays below 38, so what is further below can't win any more.
      if (logit + 38.0 < best) break;
      const double noise = -std::log(
          -std::log(uniform(mix64(row, static_cast<uint64_t>(distribution.tokens[place])))));
      if (logit + noise > best) {
        best = logit + noise;
        places[i] = static_cast<int32_t>(place);
      }
    }
  }
}

}  // namespace toolprm
