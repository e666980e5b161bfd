// From logits to tokens: the raw distribution's top k under a mask, and many draws from it at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace toolprm {

// A next-token distribution: the tokens allowed, most likely first. Log-probabilities are raw, of
// the whole vocabulary at temperature 1; `entropy` is the raw distribution's, in nats.
struct Distribution {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  float entropy = 0;
};

// One row of logits to its top k. `mask` has a bit for each token, or is null. Rows with fewer
// allowed tokens than `k` are padded with -1 and -infinity. Ties go to the lower token.
void select_top_k(const float* logits, size_t vocabulary, const uint32_t* mask, size_t k,
                  int32_t* tokens, float* logprobs, float* entropy);

struct SamplerOptions {
  float temperature = 0.8f;  // 0: the most likely token, always
  uint32_t top_k = 64;
  float top_p = 1.0f;
  uint64_t seed = 0;
};

// Draws by the Gumbel-max trick with counter-based noise: the noise depends on (seed, path, draw,
// token) alone, so neither the order of rows nor a small change of the logits moves other draws,
// and the draws are independent samples (Gumbel 1954; Maddison, Tarlow and Minka 2014). Draws of
// different prompts are independent only if `path` differs between them.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options) {}

  // For each of `draws` the place in `distribution` of the token it takes. `path` identifies the
  // tokens before. A distribution without tokens gives -1 for every draw.
  void draw(const Distribution& distribution, uint64_t path, const std::vector<uint32_t>& draws,
            std::vector<int32_t>& places) const;

 private:
  size_t candidates(const Distribution& distribution) const;

  SamplerOptions options_;
};

}  // namespace toolprm
