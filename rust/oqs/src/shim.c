/* What liboqs 0.13 lacks and veilnet.crypto.liboqs needs, added while it is linked.
 *
 * OQS_SIG_supports_ctx_str   liboqs-python 0.16 looks it up on import
 * VEILNET_SIG_keypair_seed   ML-DSA.KeyGen_internal(xi) of FIPS 204: the key pair of a 32-byte seed
 *
 * liboqs has no seeded key generation for ML-DSA, but its keypair() reads exactly one random
 * string of 32 bytes, xi.  The link wraps OQS_randombytes, and the wrapper hands out the seed of the
 * calling thread, once.  Other threads keep getting the system's randomness: the seed is
 * thread-local.
 */
#include <oqs/oqs.h>
#include <string.h>

#define SEED_BYTES 32

void __real_OQS_randombytes(uint8_t *out, size_t len);

static _Thread_local const uint8_t *next_seed;

void __wrap_OQS_randombytes(uint8_t *out, size_t len) {
	if (next_seed != NULL && len == SEED_BYTES) {
		memcpy(out, next_seed, SEED_BYTES);
		next_seed = NULL;
		return;
	}
	__real_OQS_randombytes(out, len);
}

OQS_API OQS_STATUS VEILNET_SIG_keypair_seed(const OQS_SIG *sig, const uint8_t *seed,
                                            uint8_t *public_key, uint8_t *secret_key) {
	next_seed = seed;
	OQS_STATUS status = OQS_SIG_keypair(sig, public_key, secret_key);
	if (next_seed != NULL) {
		/* keypair() never asked for 32 bytes: what it made is not the seed's key pair. */
		next_seed = NULL;
		return OQS_ERROR;
	}
	return status;
}

OQS_API bool OQS_SIG_supports_ctx_str(const char *alg_name) {
	OQS_SIG *sig = OQS_SIG_new(alg_name);
	bool supported = sig != NULL && sig->sig_with_ctx_support;
	OQS_SIG_free(sig);
	return supported;
}
