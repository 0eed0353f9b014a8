# How the image is built: `docker buildx bake` makes `plain`, `docker buildx bake qwen3-4b-awq` one with weights.
# Every variable is read from the environment too. The commits of the models stand in models.toml.

variable "IMAGE" {
  default = "regia-inference"
}

variable "VERSION" {
  default = "dev"
}

variable "SOURCE" {
  default = ""
}

variable "REVISION" {
  default = ""
}

variable "CREATED" {
  default = ""
}

# The commits that whoever runs the panel named: the panel reads the same variables.
variable "INFERENCE_REVISION_QWEN3_4B_BF16" {
  default = ""
}

variable "INFERENCE_REVISION_QWEN3_4B_FP8" {
  default = ""
}

variable "INFERENCE_REVISION_QWEN3_4B_AWQ" {
  default = ""
}

group "default" {
  targets = ["plain"]
}

target "_image" {
  context    = "."
  dockerfile = "Dockerfile"
  platforms  = ["linux/amd64"]
  attest     = ["type=provenance,mode=max", "type=sbom"]
  args = {
    SOURCE   = SOURCE
    REVISION = REVISION
    VERSION  = VERSION
    CREATED  = CREATED
  }
}

target "plain" {
  inherits = ["_image"]
  target   = "plain"
  tags     = ["${IMAGE}:${VERSION}"]
}

target "_weights" {
  inherits = ["_image"]
  target   = "weights"
  secret   = ["type=env,id=hf_token,env=HF_TOKEN"]
}

target "qwen3-4b-bf16" {
  inherits = ["_weights"]
  tags     = ["${IMAGE}:${VERSION}-qwen3-4b-bf16"]
  args = {
    MODEL_KEY      = "qwen3-4b-bf16"
    MODEL_REVISION = INFERENCE_REVISION_QWEN3_4B_BF16
  }
}

# models.toml knows no commit of it: this target fails until one is named.
target "qwen3-4b-fp8" {
  inherits = ["_weights"]
  tags     = ["${IMAGE}:${VERSION}-qwen3-4b-fp8"]
  args = {
    MODEL_KEY      = "qwen3-4b-fp8"
    MODEL_REVISION = INFERENCE_REVISION_QWEN3_4B_FP8
  }
}

target "qwen3-4b-awq" {
  inherits = ["_weights"]
  tags     = ["${IMAGE}:${VERSION}-qwen3-4b-awq"]
  args = {
    MODEL_KEY      = "qwen3-4b-awq"
    MODEL_REVISION = INFERENCE_REVISION_QWEN3_4B_AWQ
  }
}
