#include "model/model_shape.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "base/test_support.h"

namespace mooncake {
namespace {

ModelShape Find(const char* name) { return FindModel(name).value(); }

TEST(ModelShape, BytesPerTokenAreThePublishedOnes) {
  EXPECT_EQ(Find("llama-3-8b").bytes_per_token(), 128u << 10);
  EXPECT_EQ(Find("llama-3-70b").bytes_per_token(), 320u << 10);
  EXPECT_EQ(Find("llama-3.1-405b").bytes_per_token(), 504u << 10);
  EXPECT_EQ(Find("qwen2.5-7b").bytes_per_token(), 56u << 10);
  EXPECT_EQ(Find("qwen2.5-72b").bytes_per_token(), 320u << 10);
  EXPECT_EQ(Find("mistral-7b").bytes_per_token(), 128u << 10);
  EXPECT_EQ(Find("mixtral-8x7b").bytes_per_token(), 128u << 10);
  EXPECT_EQ(Find("gemma-2-9b").bytes_per_token(), 336u << 10);
  EXPECT_EQ(Find("phi-3-mini").bytes_per_token(), 384u << 10);
  EXPECT_EQ(Find("deepseek-v3").bytes_per_token(), 61u * 576 * 2);  // one latent, not K and V
}

TEST(ModelShape, EveryModelIsCompleteAndFoundByItsName) {
  for (const ModelShape& model : AllModels()) {
    const Result<ModelShape> found = FindModel(model.name);
    ASSERT_TRUE(Succeeds(found));
    EXPECT_EQ(found->layers, model.layers);
    EXPECT_EQ(model.dtype_bytes, model.dtype == "fp8" ? 1u : 2u) << model.name;
    EXPECT_GE(model.vocabulary, 256u) << model.name << " has no room for the tokens of a text";
    EXPECT_GT(model.max_context, 0u);
    EXPECT_EQ(model.row_bytes() % kRowUnitBytes, 0u);
  }
}

TEST(ModelShape, AnUnknownNameIsAnsweredWithTheNearest) {
  const Result<ModelShape> near = FindModel("lama-3-8b");
  EXPECT_TRUE(FailsWith(near, ErrorId::kUnknownModel));
  EXPECT_THAT(near.error().context, testing::HasSubstr("\"llama-3-8b\""));
  const Result<ModelShape> far = FindModel("a-completely-different-thing");
  EXPECT_TRUE(FailsWith(far, ErrorId::kUnknownModel));
  EXPECT_THAT(far.error().context, testing::HasSubstr("deepseek-v3"));
}

TEST(Scale, MultipliesRowsAndKeepsLayers) {
  const ScaledShape whole = Scale(Find("llama-3-8b"), 1.0, 16).value();
  EXPECT_EQ(whole.layers, 32u);
  EXPECT_EQ(whole.row_bytes, 4096u);
  EXPECT_EQ(whole.page_bytes(), 64u << 10);
  EXPECT_EQ(whole.bytes_per_token(), 128u << 10);
  const ScaledShape hundredth = Scale(Find("llama-3-8b"), 0.01, 16).value();
  EXPECT_EQ(hundredth.layers, 32u);
  EXPECT_EQ(hundredth.row_bytes, 40u);
  EXPECT_EQ(Scale(Find("llama-3-8b"), 1e-9, 16).value().row_bytes, 8u);
}

TEST(Scale, RefusesWhatIsOutOfRange) {
  const ModelShape tiny = Find("tiny");
  for (const double scale :
       {0.0, -1.0, 1.01, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_TRUE(FailsWith(Scale(tiny, scale, 16), ErrorId::kBadOptionValue)) << scale;
  }
  EXPECT_TRUE(FailsWith(Scale(tiny, 1, 0), ErrorId::kBadOptionValue));
  EXPECT_TRUE(FailsWith(Scale(tiny, 1, kPageTokensMax + 1), ErrorId::kBadOptionValue));
  EXPECT_TRUE(Succeeds(Scale(tiny, 1, kPageTokensMax)));
}

}  // namespace
}  // namespace mooncake
