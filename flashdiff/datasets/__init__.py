"""Clean images: fetch them, verify them, split them, hand them out.

Whatever the source, a study sees the same three files: ``train.npy``, ``validation.npy`` and ``test.npy``
(:mod:`.splits`). A data set with a name (:mod:`.mnist`) is one function with the signature of
:func:`.mnist.fashion_mnist` and one line in :data:`.study_data.DATASETS`; images that the user has
(:mod:`.own_images`) lie in one of the :data:`.layouts.LAYOUTS`. All of them yield one image at a time, so that a source
larger than the memory is split in the same way.

Names are imported from these modules and not from here: so a stage depends on the readers that it uses, and on no other.
"""
